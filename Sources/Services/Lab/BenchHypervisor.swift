import Foundation
import Hypervisors
import LinuxNetwork
import Synchronization

/// A hypervisor that has no guest: it speaks as much QMP as a watcher needs, and says what the bench tells it to. Each client has a thread; there is one, the controller.
final class BenchHypervisor: Sendable {
  /// A controller that comes back may hold two connections for a moment.
  private static let maximumClients = 4
  /// The longest line of a watcher's; what sends more is none.
  private static let maximumLine = 1 << 16

  private struct State {
    /// `query-status`.
    var status: String
    /// `query-migrate`.
    var migration: JSON = .object([:])
    var clients: [Int32] = []
    var isOver = false
  }

  private let path: String
  private let listener: Int32
  private let state: Mutex<State>

  /// Listens on a unix socket, as a QEMU in this state (`running`, `inmigrate`) would.
  init(path: String, status: String) throws(LabError) {
    self.path = path
    state = Mutex(State(status: status))
    unlink(path)
    listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let room = MemoryLayout.size(ofValue: address.sun_path)
    precondition(path.utf8.count < room, "the run folder's path is short")
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
    }
    guard listener >= 0, bound == 0, listen(listener, 4) == 0 else {
      let reason = SystemError("listen on \(path)").description
      close(listener)
      throw .network(reason)
    }
    Thread.detachNewThread { [self] in acceptClients() }
  }

  // MARK: What the bench says

  /// Sets what is answered from now on.
  func set(status: String? = nil, migration: JSON? = nil) {
    state.withLock { state in
      if let status { state.status = status }
      if let migration { state.migration = migration }
    }
  }

  /// An event, stamped with this moment unless another is given.
  func say(_ name: String, _ data: JSON? = nil, atMicroseconds stamp: Int64 = wallMicroseconds()) {
    var event: [String: JSON] = [
      "event": .string(name),
      "timestamp": .object(["seconds": .integer(stamp / 1_000_000), "microseconds": .integer(stamp % 1_000_000)]),
    ]
    event["data"] = data
    // One lock for all that is written: an event never stands within an answer.
    state.withLock { state in
      for client in state.clients { BenchHypervisor.send(.object(event), to: client) }
    }
  }

  func sayMigration(_ phase: String) { say("MIGRATION", .object(["status": .string(phase)])) }

  /// The process ends: its connections close and its socket is gone.
  func end() {
    // Under the lock, so that no descriptor is another's by then.
    state.withLock { state in
      guard !state.isOver else { return }
      state.isOver = true
      for client in state.clients { shutdown(client, Int32(SHUT_RDWR)) }
      shutdown(listener, Int32(SHUT_RDWR))
      unlink(path)
    }
  }

  // MARK: What the watcher hears

  private func acceptClients() {
    while true {
      let client = accept(listener, nil, nil)
      if client < 0, errno == EINTR { continue }
      guard client >= 0 else { break }
      let isWelcome = state.withLock { state -> Bool in
        guard !state.isOver, state.clients.count < BenchHypervisor.maximumClients else { return false }
        BenchHypervisor.send(BenchHypervisor.greeting, to: client)
        state.clients.append(client)
        return true
      }
      guard isWelcome else {
        close(client)
        continue
      }
      Thread.detachNewThread { [self] in serve(client) }
    }
    close(listener)
  }

  private func serve(_ client: Int32) {
    var partial: [UInt8] = []
    while let octets = Program.readSome(client), partial.count < BenchHypervisor.maximumLine {
      partial += octets
      while let end = partial.firstIndex(of: UInt8(ascii: "\n")) {
        let command = JSON(octets: partial[..<end])
        partial.removeSubrange(...end)
        guard let command else { continue }
        state.withLock { state in BenchHypervisor.send(BenchHypervisor.answer(command, state), to: client) }
      }
    }
    state.withLock { state in
      state.clients.removeAll { $0 == client }
      close(client)
    }
  }

  private static let greeting = JSON.object([
    "QMP": .object([
      "version": .object([
        "qemu": .object(["major": .integer(7), "minor": .integer(2), "micro": .integer(0)]), "package": .string("bench"),
      ]), "capabilities": .array([]),
    ])
  ])

  private static func answer(_ command: JSON, _ state: State) -> JSON {
    let id = command["id"] ?? .null
    func give(_ value: JSON) -> JSON { .object(["return": value, "id": id]) }
    let name = command["execute"]?.text ?? "?"
    switch name {
    case "qmp_capabilities", "migrate-set-capabilities": return give(.object([:]))
    case "query-status": return give(.object(["status": .string(state.status), "running": .boolean(state.status == "running")]))
    case "query-migrate": return give(state.migration)
    case "query-migrate-capabilities":
      return give(.array([.object(["capability": .string("events"), "state": .boolean(true)])]))
    default:
      let reason = "The command \(name) has not been found"
      return .object(["error": .object(["class": .string("CommandNotFound"), "desc": .string(reason)]), "id": id])
    }
  }

  private static func send(_ message: JSON, to client: Int32) {
    let octets = Array((message.line + "\r\n").utf8)
    // A watcher reads all the time, and a socket holds 200 kB; one that does not read is gone, and MSG_NOSIGNAL leaves that to `serve`.
    _ = Glibc.send(client, octets, octets.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
  }
}
