import Foundation
import LinuxNetwork
import Vocabulary

/// One download of an object, with a connection of its own; every octet is compared.
struct ObjectFetch: Sendable {
  struct Outcome: Sendable {
    /// From the first SYN until the request could be sent.
    var connectSeconds = 0.0
    /// From the request to the last octet; computed from `steadyRate` if the object did not come to its end within the limit.
    var dataSeconds = 0.0
    var totalSeconds: Double { connectSeconds + dataSeconds }
    var octets = 0
    var isComplete = false
    /// Octets in a second over the second half of what was seen.
    var steadyRate = 0.0
    /// The first octet that was not the object's, if there was one.
    var wrongAt: Int?
    var complaint: String?
  }

  /// Where applications go in.
  var entry: Endpoint
  /// Asked for by CONNECT; nil: the entry leads there by itself.
  var target: Endpoint?
  var space: Namespace?
  var number: Int
  /// The congestion control that the server shall have; "-": what its kernel gives.
  var control = "-"
  var object: BenchObject
  /// For the data; what is not there by then is computed.
  var limit: TimeSpan

  /// For one read.
  private static let buffer = 1 << 20
  private static let connectLimit = TimeSpan.seconds(20 as Int64)

  func run() async throws -> Outcome { try await LabSocket.onThread(in: space) { download() } }

  private func download() -> Outcome {
    var outcome = Outcome()
    let began = ContinuousClock.now
    let connection: Int32
    do {
      connection = try ObjectFetch.open(entry, target)
    } catch {
      outcome.complaint = "\(error)"
      return outcome
    }
    defer { close(connection) }
    outcome.connectSeconds = seconds(since: began)
    LabSocket.setLimit(connection, limit)
    let asked = ContinuousClock.now
    guard LabSocket.write("GET \(number) \(control)\n", to: connection) else {
      outcome.complaint = "the request could not be sent"
      return outcome
    }
    read(connection, since: asked, into: &outcome)
    return outcome
  }

  /// Connects, and asks an accelerator for the target.
  static func open(_ entry: Endpoint, _ target: Endpoint?) throws -> Int32 {
    let connection = try LabSocket.connect(to: entry, limit: connectLimit)
    guard let target else { return connection }
    guard LabSocket.write("CONNECT \(target) HTTP/1.1\r\nHost: \(target)\r\n\r\n", to: connection),
      let answer = LabSocket.readHead(connection, upTo: "\r\n\r\n")
    else {
      close(connection)
      throw LabError.downloadFailed("no answer to CONNECT")
    }
    guard answer.hasPrefix("HTTP/1.1 200") else {
      close(connection)
      throw LabError.downloadFailed("CONNECT was answered with \(answer.prefix { $0 != "\r" })")
    }
    return connection
  }

  private func read(_ connection: Int32, since asked: ContinuousClock.Instant, into outcome: inout Outcome) {
    // When how much was there, thinned: for the rate of the second half.
    var marks: [(octets: Int, seconds: Double)] = [(0, 0)]
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: ObjectFetch.buffer, alignment: 64)
    defer { memory.deallocate() }
    let total = object.octets.count
    let most = limit.seconds
    while outcome.octets < total {
      let count = recv(connection, memory.baseAddress, memory.count, 0)
      if count < 0, errno == EINTR { continue }
      let now = seconds(since: asked)
      guard count > 0 else {
        let isLate = count < 0 && errno == EAGAIN
        if !isLate { outcome.complaint = count == 0 ? "the connection ended early" : SystemError("read").description }
        break
      }
      compare(UnsafeRawBufferPointer(rebasing: memory[..<count]), &outcome)
      outcome.octets += count
      outcome.dataSeconds = now
      if let last = marks.last, now - last.seconds >= 0.01 { marks.append((outcome.octets, now)) }
      if now >= most { break }
    }
    outcome.isComplete = outcome.octets == total
    let half = marks.last { $0.seconds <= outcome.dataSeconds / 2 } ?? (0, 0)
    outcome.steadyRate = Double(outcome.octets - half.octets) / max(outcome.dataSeconds - half.seconds, 1e-6)
    guard !outcome.isComplete, outcome.complaint == nil else { return }
    guard outcome.steadyRate > 0 else {
      outcome.complaint = "nothing came within \(limit.seconds) s"
      return
    }
    outcome.dataSeconds += Double(total - outcome.octets) / outcome.steadyRate
  }

  private func compare(_ part: UnsafeRawBufferPointer, _ outcome: inout Outcome) {
    guard outcome.wrongAt == nil else { return }
    object.octets.withUnsafeBytes { whole in
      guard part.count <= whole.count - outcome.octets else {
        outcome.wrongAt = whole.count
        return
      }
      let expected = UnsafeRawBufferPointer(rebasing: whole[outcome.octets..<(outcome.octets + part.count)])
      guard let a = part.baseAddress, let z = expected.baseAddress, memcmp(a, z, part.count) != 0 else { return }
      outcome.wrongAt = outcome.octets + (zip(part, expected).enumerated().first { $1.0 != $1.1 }?.offset ?? 0)
    }
  }

}

/// Since then, on the clock that goes on while the machine sleeps.
func seconds(since start: ContinuousClock.Instant) -> Double {
  let span = ContinuousClock.now - start
  return Double(span.components.seconds) + Double(span.components.attoseconds) / 1e18
}
