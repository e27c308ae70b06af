import Certificates
import NIOCore
import NIOHTTP1
import NIOPosix
import Sockets

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// A node's side of enrolment. Each call is one connection; what comes back is checked against the CA before a file changes.
package struct EnrolmentClient: Sendable {
  private let place: Location
  private let clock: @Sendable () -> Date

  package init(_ place: Location, clock: @escaping @Sendable () -> Date = { Date() }) {
    self.place = place
    self.clock = clock
  }

  /// Makes a key, spends the token on a certificate for it, and fills the folder. Nothing is sent before the endpoint has shown the CA of the token.
  @discardableResult
  package func enrol(
    _ token: EnrolmentToken, as name: NodeName, into folder: NodeFolder, overwrite: Bool = false
  ) async throws -> NodeCertificate {
    try folder.requireRoom(overwrite: overwrite)
    let (request, key) = try SigningRequest.make(for: name)
    let clock = clock
    let (answer, peer): (EnrolmentAnswer, VerifiedPeer) = try await ask(
      .POST, EnrolmentPath.enrol, EnrolmentRequest(token: "\(token)", request: request.pem)
    ) { try Stranger.secure($0, fingerprint: token.fingerprint, clock: clock) }
    return try take(answer, for: name, key: key, roots: [peer.authority], into: folder, known: nil)
  }

  /// Makes a new key, and gets a certificate for it by showing the one that the folder has.
  @discardableResult
  package func renew(_ folder: NodeFolder) async throws -> NodeCertificate {
    let identity = try NodeIdentity(directory: folder.directory)
    // Said here, or the other end's refusal would have to do, in fewer words.
    if clock() > identity.notAfter { throw CertificateError.tooLate(peer: "\(identity.name)", on: identity.notAfter) }
    let (request, key) = try SigningRequest.make(for: identity.name)
    let clock = clock
    let (answer, _): (EnrolmentAnswer, VerifiedPeer) = try await ask(
      .POST, EnrolmentPath.renew, EnrolmentRequest(token: nil, request: request.pem)
    ) { try identity.secure($0, as: .client, expecting: .authority, clock: clock) }
    return try take(
      answer, for: identity.name, key: key, roots: try folder.readRoots(), into: folder, known: identity.trust.revocations)
  }

  /// The list as the CA has it now; written into the folder if it is newer than the one there. True if it was.
  @discardableResult
  package func fetchRevocations(into folder: NodeFolder) async throws -> (list: RevocationList, isNew: Bool) {
    let roots = try folder.readRoots()
    let trust = try TrustStore(roots: roots)
    let known = try folder.readRevocations()
    let clock = clock
    // No certificate is shown: the list is no secret, and who has been revoked may hear of it.
    var body: [UInt8]?
    var last: any Error = CertificateError.noCertificate
    for root in roots where body == nil {
      do {
        body = try await exchange(.GET, EnrolmentPath.revocations, nil) {
          try Stranger.secure($0, fingerprint: root.fingerprintOctets, clock: clock)
        }.body
      } catch { last = error }
    }
    guard let body else { throw last }
    let list: RevocationList
    do { list = try RevocationList(pem: String(decoding: body, as: UTF8.self)) } catch {
      throw EnrolmentError.answer(from: "\(place)", why: "\(error)")
    }
    guard trust.signed(list) else { throw EnrolmentError.answer(from: "\(place)", why: "the list is not signed by the CA in ca.pem") }
    let isNew = list.number > known?.number ?? 0
    if isNew { try folder.write(list) }
    return (list, isNew)
  }

  // MARK: What came back

  private func take(
    _ answer: EnrolmentAnswer, for name: NodeName, key: NodeKey, roots: [NodeCertificate], into folder: NodeFolder, known: RevocationList?
  ) throws -> NodeCertificate {
    do {
      guard let certificate = try NodeCertificate.all(pem: answer.certificate).first else { throw CertificateError.noCertificate }
      let list = try RevocationList(pem: answer.revocations)
      let trust = try TrustStore(roots: roots, revocations: list)
      _ = try trust.verify(certificate, expecting: PeerExpectation([name.role], name: name.name), at: clock())
      let isOlder = known.map { $0.number > list.number } ?? false
      try folder.write(certificate, key: key, roots: roots, revocations: isOlder ? nil : list, overwrite: true)
      return certificate
    } catch let error as CertificateError {
      if case .unwritable = error { throw error }
      throw EnrolmentError.answer(from: "\(place)", why: "\(error)")
    }
  }

  // MARK: The exchange

  private typealias Secure = @Sendable (ChannelPipeline.SynchronousOperations) throws -> PeerGate

  private func ask<Answer: Decodable>(
    _ method: HTTPMethod, _ path: String, _ request: EnrolmentRequest, secure: @escaping Secure
  ) async throws -> (Answer, VerifiedPeer) {
    let (body, peer) = try await exchange(method, path, Array(try JSONEncoder().encode(request)), secure: secure)
    do { return (try JSONDecoder().decode(Answer.self, from: Data(body)), peer) } catch {
      throw EnrolmentError.answer(from: "\(place)", why: "not the JSON of a certificate")
    }
  }

  private func exchange(
    _ method: HTTPMethod, _ path: String, _ body: [UInt8]?, secure: @escaping Secure
  ) async throws -> (body: [UInt8], peer: VerifiedPeer) {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let promise = loop.makePromise(of: EnrolmentExchange.Result.self)
    let place = place
    let request = EnrolmentExchange.Request(method: method, path: path, host: "\(place)", body: body ?? [])
    let channel: any Channel
    do {
      channel = try await ClientBootstrap(group: loop).connectTimeout(EnrolmentLimits.connectLimit)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            let gate = try secure(channel.pipeline.syncOperations)
            try channel.pipeline.syncOperations.addHTTPClientHandlers()
            try channel.pipeline.syncOperations.addHandler(EnrolmentExchange(request, gate: gate, promise: promise))
          }
        }
        .connect(host: place.host, port: Int(place.port)).get()
    } catch {
      promise.fail(error)
      throw EnrolmentError.unreachable(at: "\(place)", why: describe(error))
    }
    let result: EnrolmentExchange.Result
    do { result = try await promise.futureResult.get() } catch let error as CertificateError {
      throw EnrolmentError.refused(by: "\(place)", why: "\(error)")
    } catch {
      throw EnrolmentError.unreachable(at: "\(place)", why: describe(error))
    }
    channel.close(promise: nil)
    guard result.status == .ok else {
      let why = (try? JSONDecoder().decode(EnrolmentRefusal.self, from: Data(result.body)))?.error
      throw EnrolmentError.refused(by: "\(place)", why: why ?? "status \(result.status.code)")
    }
    return (result.body, result.peer)
  }
}
