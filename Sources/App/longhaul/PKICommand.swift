import ArgumentParser
import Certificates
import CommandSupport
import Enrolment
import Sockets
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

struct PKICommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pki", abstract: "The certificates of an installation: a CA, its nodes, enrolment with one-time tokens, revocation.",
    subcommands: [
      InitPKI.self, IssuePKI.self, TokenPKI.self, ServePKI.self, EnrolPKI.self, RenewPKI.self, RevocationsPKI.self, RevokePKI.self,
      ListPKI.self, ShowPKI.self,
    ])
}

extension CertificateRole: ExpressibleByArgument {
  /// The last role is for `serve` to give itself.
  public init?(argument: String) {
    self.init(rawValue: argument)
    if self == .authority { return nil }
  }

  public static var allValueStrings: [String] { allCases.filter { $0 != .authority }.map(\.rawValue) }
}

/// At the CA's machine: where the CA is.
struct AuthorityOption: ParsableArguments {
  @Option(name: .customLong("ca"), help: "The folder of the CA.")
  var folder: String
}

private struct InitPKI: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "init", abstract: "Makes a new CA in a folder, good for ten years.")

  @Argument(help: "The folder of the CA; it is made if it is not there.")
  var folder: String

  @Flag(help: "Replace the CA that is there, and with it every certificate that it has given.")
  var force = false

  func run() throws {
    let authority = try Authority.create(folder, overwrite: force)
    print("CA made in \(folder), good until \(authority.certificate.notAfter.inWords)")
    print("fingerprint \(authority.certificate.fingerprint)")
    print("Keep \(folder)/\(Authority.File.key) and \(folder)/\(Authority.File.ledger) safe, and a copy of both elsewhere.")
  }
}

private struct IssuePKI: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "issue", abstract: "Makes a key and a certificate for a node, in a folder to be copied to it.",
    discussion: "Better is `token` and `enrol`, where the key never leaves the node.")

  @Argument(help: "agent, client, accelerator, controller or operator.")
  var role: CertificateRole

  @Argument(help: "The node's name; an agent's is that of its machine.")
  var name: String

  @OptionGroup var authority: AuthorityOption

  @Option(help: "The folder to be filled for the node.")
  var out: String

  @Option(help: "How many days the certificate is good for.")
  var days = Int(Authority.nodeLifetimeSeconds / 86_400)

  @Flag(help: "Replace the key and certificate that are there.")
  var force = false

  func run() throws {
    let folder = NodeFolder(out)
    try folder.requireRoom(overwrite: force)
    let authority = try Authority(self.authority.folder)
    let (request, key) = try SigningRequest.make(for: try nodeName(role, name))
    let certificate = try authority.issue(request, lifetimeSeconds: Double(days) * 86_400)
    try folder.write(
      certificate, key: key, roots: [authority.certificate], revocations: try authority.revocations(), overwrite: force)
    print("certificate \(certificate.serial) for \(request.name) in \(out), good until \(certificate.notAfter.inWords)")
  }
}

private struct TokenPKI: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "token", abstract: "Prints a token with which one node gets one certificate, by `longhaul pki enrol`.")

  @Argument(help: "agent, client, accelerator, controller or operator.")
  var role: CertificateRole

  @Argument(help: "The node's name; without one the node may choose.")
  var name: String?

  @OptionGroup var authority: AuthorityOption

  @Option(help: "How many minutes the token is good for.")
  var minutes = Int(Authority.tokenLifetimeSeconds / 60)

  func run() throws {
    print(try Authority(authority.folder).makeToken(role: role, name: name, lifetimeSeconds: Double(minutes) * 60))
  }
}

private struct ServePKI: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve", abstract: "Answers nodes that enrol, renew, or ask for revocations.",
    discussion: "Runs where the CA's folder is, and nowhere else: it holds the CA's key.")

  @OptionGroup var authority: AuthorityOption

  @Option(help: "Where nodes come in, ADDRESS:PORT.")
  var listen = Endpoint(address: .v4(0), port: 7_643)

  @OptionGroup var log: LogOptions

  func run() async throws {
    let logger = log.logger("pki")
    let server = try EnrolmentServer(authority: try Authority(authority.folder), logger: logger)
    try await runUntilSignalled {
      try await server.run(listen: listen) { logger.info("enrolment endpoint ready", metadata: ["listen": "\($0)"]) }
    }
  }
}

/// At a node: where the CA answers.
struct EndpointOption: ParsableArguments {
  @Option(name: .customLong("authority"), help: "Where `longhaul pki serve` answers, ADDRESS:PORT or NAME:PORT.")
  var place: Location
}

private struct EnrolPKI: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "enrol", abstract: "Makes a key on this node and gets a certificate for it with a token.")

  @Option(help: "The token that `longhaul pki token` printed; - reads it from standard input, where no list of processes shows it.")
  var token: String

  @OptionGroup var endpoint: EndpointOption

  @Option(help: "The folder to be filled.")
  var out: String

  @Option(help: "The node's name, if the token leaves it open.")
  var name: String?

  @Flag(help: "Replace the key and certificate that are there.")
  var force = false

  func run() async throws {
    let text = token == "-" ? readLine() ?? "" : token
    let token = try EnrolmentToken(String(text.filter { !$0.isWhitespace }))
    guard let chosen = try name.map({ try nodeName(token.role, $0) }) ?? token.name else {
      throw CertificateError.request("the token leaves the name of the \(token.role.rawValue) open; give one with --name")
    }
    let certificate = try await EnrolmentClient(endpoint.place).enrol(token, as: chosen, into: NodeFolder(out), overwrite: force)
    print("certificate \(certificate.serial) for \(chosen) in \(out), good until \(certificate.notAfter.inWords)")
  }
}

/// At a node: its folder.
struct NodeOption: ParsableArguments {
  @Option(name: .customLong("dir"), help: "The node's folder.")
  var folder: String
}

private struct RenewPKI: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "renew", abstract: "Gets a new certificate, for a new key, by showing the one that this node has.")

  @OptionGroup var node: NodeOption
  @OptionGroup var endpoint: EndpointOption

  func run() async throws {
    let certificate = try await EnrolmentClient(endpoint.place).renew(NodeFolder(node.folder))
    print("certificate \(certificate.serial) in \(node.folder), good until \(certificate.notAfter.inWords)")
  }
}

private struct RevocationsPKI: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "revocations",
    abstract: "Fetches the list of revoked certificates into a node's folder; a running node takes it by itself.")

  @OptionGroup var node: NodeOption
  @OptionGroup var endpoint: EndpointOption

  func run() async throws {
    let (list, isNew) = try await EnrolmentClient(endpoint.place).fetchRevocations(into: NodeFolder(node.folder))
    print(
      "list \(list.number) of \(list.issued.inWords), \(list.entries.count) revoked\(isNew ? "" : ": not newer than the one in \(node.folder)")"
    )
  }
}

private struct RevokePKI: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "revoke", abstract: "Takes back every certificate of a node, or one by its serial number.")

  @Argument(help: "ROLE/NAME, as agent/vm1, or a serial number as `list` shows it.")
  var what: String

  @OptionGroup var authority: AuthorityOption

  func run() throws {
    let authority = try Authority(self.authority.folder)
    let count = try authority.revoke(what)
    let list = try authority.revocations()
    print("\(count == 0 ? "revoked before" : count == 1 ? "1 certificate revoked" : "\(count) certificates revoked"): \(what)")
    print("list \(list.number) in \(authority.directory)/\(Authority.File.revocations); nodes fetch it, or copy it into their folders")
  }
}

private struct ListPKI: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "list", abstract: "Shows the certificates that a CA has given.")

  @OptionGroup var authority: AuthorityOption

  @Flag(help: "One JSON document, for programs.")
  var json = false

  func run() throws {
    let issued = try Authority(authority.folder).issued().sorted { ($0.name, $0.notAfter) < ($1.name, $1.notAfter) }
    if json { return try printJSON(issued.map(CertificateDocument.init)) }
    let now = Date()
    print(
      table(
        "CERTIFICATES", ["name", "serial", "state", "until"],
        issued.map {
          [$0.name, $0.serial, $0.revoked != nil ? "revoked" : now > $0.notAfter ? "expired" : "good", ($0.revoked ?? $0.notAfter).inWords]
        }))
  }
}

private struct ShowPKI: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Shows the certificates in a file, or those of a node's or the CA's folder, and what is wrong with them."
  )

  @Argument(help: "A folder of a node or of a CA, a certificate in PEM, or a revocation list in PEM.")
  var path: String

  func run() throws {
    var isFolder: Bool { FileManager.default.fileExists(atPath: "\(path)/\(NodeIdentity.File.authority)") }
    guard isFolder else {
      if let list = try? RevocationList(contentsOf: path) { return show(list) }
      for certificate in try NodeCertificate.all(contentsOf: path) { show(certificate) }
      return
    }
    for certificate in try NodeFolder(path).readRoots() { show(certificate) }
    if FileManager.default.fileExists(atPath: "\(path)/\(Authority.File.key)") {
      return show(try Authority(path).revocations())
    }
    let identity = try NodeIdentity(directory: path)
    show(identity.certificate)
    if let list = identity.trust.revocations { show(list) }
    for line in identity.warnings() { print("WARNING: \(line)") }
  }

  private func show(_ certificate: NodeCertificate) {
    print(
      """
      \(certificate.name.map { "\($0)" } ?? certificate.subject)
        serial       \(certificate.serial)
        good         from \(certificate.notBefore.inWords) until \(certificate.notAfter.inWords)
        signed by    \(certificate.issuer)
        fingerprint  \(certificate.fingerprint)
      """)
  }

  private func show(_ list: RevocationList) {
    print("revocation list \(list.number) of \(list.issued.inWords), \(list.entries.count) revoked, the next by \(list.nextUpdate.inWords)")
    for entry in list.entries { print("  \(entry.serial)  \(entry.date.inWords)") }
  }
}

private struct CertificateDocument: Encodable {
  var name: String
  var serial: String
  var notAfter: String
  var revoked: String?

  init(_ issued: Authority.Issued) {
    name = issued.name
    serial = issued.serial
    notAfter = issued.notAfter.formatted(.iso8601)
    revoked = issued.revoked?.formatted(.iso8601)
  }
}

private func printJSON(_ value: some Encodable) throws {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
  print(String(decoding: try encoder.encode(value), as: UTF8.self))
}

private func nodeName(_ role: CertificateRole, _ name: String) throws -> NodeName {
  guard let name = NodeName(role: role, name: name) else { throw CertificateError.badName(name) }
  return name
}
