import Control
import ControlLink
import NIOHTTP1
import Synchronization
import TestSupport
import Testing
import Vocabulary

@Suite("A node's link to the controller")
struct LinkTests {
  static let freeze = NodeOrder.freeze(migration: "m1", machine: "vm")
  static let rollBack = NodeOrder.rollBack(migration: "m1", machine: "vm", agent: Endpoint("10.2.0.4:7600")!)

  @Test("registers the node, then follows its orders")
  func registers() async throws {
    let controller = try await ControllerDouble.start()
    try await Node.with(controller) { node in
      let registration = try await controller.requests.next()
      #expect(registration.method == .POST && registration.isRegistration)
      #expect(registration.headers["authorization"] == ["Bearer secret"])
      #expect(registration.headers["content-type"] == ["application/json"])
      #expect(try registration.json(NodeDescription.self) == Node.description)
      let following = try await controller.requests.next()
      #expect(following.method == .GET && following.path == "/v1/nodes/a%20node%2F1/orders")
      #expect(following.headers["authorization"] == ["Bearer secret"] && following.headers["accept"] == ["text/event-stream"])
      try await controller.order(Self.freeze)
      #expect(try await node.orders.next() == Self.freeze)
    }
    try await controller.kill()
  }

  @Test("orders arrive whatever pieces they come in, with keep-alives between them", arguments: [1, 2, 7, 64])
  func pieces(piece: Int) async throws {
    let controller = try await ControllerDouble.start()
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      let text = ": keep-alive\n\nevent: order\ndata: \(try json(Self.freeze))\n\n: keep-alive\n\ndata:\(try json(Self.rollBack))\r\n\r\n"
      try await controller.send(text, piece: piece)
      #expect(try await node.orders.next() == Self.freeze)
      #expect(try await node.orders.next() == Self.rollBack)
    }
    try await controller.kill()
  }

  @Test("an order that is not understood is logged and ignored, and the link stays")
  func unknownOrder() async throws {
    let controller = try await ControllerDouble.start()
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await controller.send("data: {\"dance\":{}}\n\ndata: not even JSON\n\n")
      try await controller.order(Self.freeze)
      #expect(try await node.orders.next() == Self.freeze)
      let line = try await node.log.next { $0.level == .warning }
      #expect(line.text.contains("not understood") && line.text.contains("dance"))
    }
    try await controller.kill()
  }

  @Test("reports go out at once, in order, with the time of their making")
  func reports() async throws {
    let controller = try await ControllerDouble.start()
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await node.report(.event("one"), .event("two"))
      var got: [TimedReport] = []
      while got.count < 2 {
        let request = try await controller.requests.next()
        #expect(request.method == .POST && request.path == "/v1/nodes/a%20node%2F1/reports")
        got += try request.json([TimedReport].self)
      }
      #expect(got.map(\.report) == [.event("one"), .event("two")])
      #expect(got.allSatisfy { $0.atMicroseconds > 1_700_000_000_000_000 })
    }
    try await controller.kill()
  }

  @Test("a controller that dies is found again, and reports made meanwhile are not lost")
  func death() async throws {
    let first = try await ControllerDouble.start()
    try await Node.with(first) { node in
      _ = try await first.requests.next { $0.method == .GET }
      try await first.kill()
      _ = try await node.log.next { $0.level == .warning && $0.text.contains("no link to the controller") }
      try await node.report(.event("while you were away"))
      let second = try await ControllerDouble.start(at: first.endpoint)
      #expect(try await second.requests.next().isRegistration)
      let reports = try await second.requests.next { $0.isReports }
      #expect(try reports.json([TimedReport].self).map(\.report) == [.event("while you were away")])
      try await second.order(Self.freeze)
      #expect(try await node.orders.next() == Self.freeze)
      try await second.kill()
    }
  }

  @Test("a batch whose answer got lost is sent again")
  func lostAnswer() async throws {
    let isFirst = Mutex(true)
    let controller = try await ControllerDouble.start { request in
      guard request.isReports else { return .init() }
      let silent = isFirst.withLock { first in
        defer { first = false }
        return first
      }
      return .init(isSilent: silent)
    }
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await node.report(.event("important"))
      _ = try await controller.requests.next { $0.isReports }
      await controller.cut()
      let again = try await controller.requests.next { $0.isReports }
      #expect(try again.json([TimedReport].self).map(\.report) == [.event("important")])
    }
    try await controller.kill()
  }

  @Test("a refused report is dropped and logged once, and the next ones go on")
  func refusedReport() async throws {
    let controller = try await ControllerDouble.start { request in
      request.isReports && String(decoding: request.body, as: UTF8.self).contains("bad")
        ? .init(status: .badRequest, body: "no such thing") : .init()
    }
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await node.report(.event("bad one"))
      _ = try await controller.requests.next { $0.isReports }
      _ = try await node.log.next { $0.level == .warning && $0.text.contains("400 no such thing") }
      try await node.report(.event("bad two"))
      _ = try await controller.requests.next { $0.isReports }
      _ = try await node.log.next { $0.level == .debug && $0.text.contains("400 no such thing") }
      try await node.report(.event("good"))
      let good = try await controller.requests.next { $0.isReports }
      #expect(try good.json([TimedReport].self).map(\.report) == [.event("good")])
    }
    try await controller.kill()
  }

  @Test("a report that the controller cannot take now is tried until it can", arguments: [503, 429])
  func busyController(status: Int) async throws {
    let refusals = Mutex(3)
    let controller = try await ControllerDouble.start { request in
      guard request.isReports else { return .init() }
      let refuses = refusals.withLock { left in
        left -= 1
        return left >= 0
      }
      return .init(status: refuses ? .init(statusCode: status) : .noContent)
    }
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await node.report(.event("patient"))
      for _ in 0..<4 {
        let request = try await controller.requests.next { $0.isReports }
        #expect(try request.json([TimedReport].self).map(\.report) == [.event("patient")])
      }
    }
    try await controller.kill()
  }

  @Test("a controller that does not know the node any more makes it register again, with its reports kept")
  func forgotten() async throws {
    let isKnown = Mutex(false)
    let controller = try await ControllerDouble.start { request in
      guard request.isReports else { return .init() }
      let known = isKnown.withLock { known in
        defer { known = true }
        return known
      }
      return .init(status: known ? .ok : .notFound)
    }
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await node.report(.event("kept"))
      _ = try await controller.requests.next { $0.isRegistration }
      let request = try await controller.requests.next { $0.isReports }
      #expect(try request.json([TimedReport].self).map(\.report) == [.event("kept")])
    }
    try await controller.kill()
  }

  @Test("a wrong key is said once, and tried again until it is right")
  func wrongKey() async throws {
    let refusals = Mutex(3)
    let controller = try await ControllerDouble.start { request in
      let refuses = refusals.withLock { left in
        left -= 1
        return left >= 0
      }
      return refuses ? .init(status: .unauthorized, body: "wrong token") : .init()
    }
    try await Node.with(controller) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      var errors: [String] = []
      while true {
        let line = try await node.log.next()
        if line.level >= .error { errors.append(line.text) }
        if line.text.contains("linked to the controller") { break }
      }
      #expect(errors.count == 1)
      #expect(errors.first?.contains("endpoint keys differ") == true)
    }
    try await controller.kill()
  }

  @Test("a stream that falls silent is taken for dead")
  func silence() async throws {
    let controller = try await ControllerDouble.start()
    var limits = Node.limits
    limits.silence = .milliseconds(100)
    try await Node.with(controller, limits: limits) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      #expect(try await controller.requests.next().isRegistration)
      _ = try await node.log.next { $0.text.contains("silent for 0.1 s") }
    }
    try await controller.kill()
  }

  @Test("a controller that takes the registration and says nothing is given up")
  func silentRegistration() async throws {
    let controller = try await ControllerDouble.start { _ in .init(isSilent: true) }
    var limits = Node.limits
    limits.answer = .milliseconds(100)
    try await Node.with(controller, limits: limits) { node in
      for _ in 0..<2 {
        let request = try await controller.requests.next()
        #expect(request.isRegistration)
      }
    }
    try await controller.kill()
  }

  @Test("what answers but is no controller is named so")
  func stranger() async throws {
    let controller = try await ControllerDouble.start { _ in .init(type: "text/html") }
    try await Node.with(controller) { node in
      _ = try await node.log.next { $0.level == .warning && $0.text.contains("no Longhaul controller") }
    }
    try await controller.kill()
  }

  @Test("an order without an end does not fill the memory")
  func endlessOrder() async throws {
    let controller = try await ControllerDouble.start()
    var limits = Node.limits
    limits.maximumOrderOctets = 1_000
    try await Node.with(controller, limits: limits) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await controller.send("data: " + String(repeating: "x", count: 2_000))
      #expect(try await controller.requests.next().isRegistration)
      _ = try await node.log.next { $0.text.contains("more than 1000 octets") }
    }
    try await controller.kill()
  }
}

@Suite("The addresses that a link is made from")
struct SourceTests {
  @Test("the link is made from the address that is given")
  func source() async throws {
    let controller = try await ControllerDouble.start()
    try await Node.with(controller, sources: ["127.0.0.2"]) { node in
      #expect(try await controller.requests.next().source == "127.0.0.2")
      _ = try await controller.requests.next { $0.method == .GET }
      try await node.report(.event("from here too"))
      #expect(try await controller.requests.next { $0.isReports }.source == "127.0.0.2")
    }
    try await controller.kill()
  }

  @Test("an address that this machine has not got now is passed by, and so is one of the other family")
  func passedBy() async throws {
    let controller = try await ControllerDouble.start()
    try await Node.with(controller, sources: ["::1", "192.0.2.1", "127.0.0.3"]) { _ in
      let request = try await controller.requests.next()
      #expect(request.source == "127.0.0.3")
    }
    try await controller.kill()
  }

  @Test("after a move the link is made anew from the new address at once, and reports under way are kept")
  func reconnect() async throws {
    let controller = try await ControllerDouble.start { request in .init(isSilent: request.isReports && request.source == "127.0.0.2") }
    try await Node.with(controller, sources: ["127.0.0.2", "127.0.0.3"]) { node in
      _ = try await controller.requests.next { $0.method == .GET }
      try await node.report(.event("stuck on the old path"))
      #expect(try await controller.requests.next { $0.isReports }.source == "127.0.0.2")
      try await node.reconnect(from: "127.0.0.3")
      let registration = try await controller.requests.next()
      #expect(registration.isRegistration && registration.source == "127.0.0.3")
      let reports = try await controller.requests.next { $0.isReports }
      #expect(reports.source == "127.0.0.3")
      #expect(try reports.json([TimedReport].self).map(\.report) == [.event("stuck on the old path")])
      try await controller.order(LinkTests.freeze)
      #expect(try await node.orders.next() == LinkTests.freeze)
    }
    try await controller.kill()
  }

  @Test("a link that was stopped stays so")
  func stopped() async throws {
    let controller = try await ControllerDouble.start()
    let node = try await Node(to: controller.endpoint)
    try await node.reconnect(from: nil)  // not started yet: nothing
    try await node.start()
    _ = try await controller.requests.next { $0.method == .GET }
    try await node.stop()
    try await node.reconnect(from: "127.0.0.1")
    try await node.report(.event("too late"))
    try await node.start()
    // Another node's registration is the next thing that the controller sees.
    try await Node.with(controller, sources: ["127.0.0.9"]) { _ in
      let request = try await controller.requests.next()
      #expect(request.source == "127.0.0.9")
    }
    try await controller.kill()
  }
}
