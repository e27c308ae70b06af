import NIOCore
import SCTP
import Testing
import Vocabulary

@Suite("A parked first flight")
struct ParkedFlightTests {
  /// What A sends on the parked carrier, held back as an accelerator beside the peer's future place does.
  final class Parking {
    var flights: [ByteBuffer] = []
  }

  /// Parks a flight on a new carrier; what goes there is held.
  func park(_ duo: inout Duo) -> (CarrierID, Parking) {
    let second = duo.dial(delay: .milliseconds(150 as Int64))
    let parking = Parking()
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(0xc1) else { return packet }
      parking.flights.append(packet)
      return nil
    }
    let isParked = duo.a.park(on: second, localAddress: Duo.a1, at: duo.network.now)
    #expect(isParked)
    duo.run(for: .milliseconds(1 as Int64))
    #expect(parking.flights.count == 1)
    duo.tamper = { $1 }
    return (second, parking)
  }

  func send(_ numbers: Range<Int>, from duo: inout Duo) {
    for number in numbers { _ = duo.z!.send(message(10_000, UInt8(number)), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
  }

  @Test(
    "waits while data goes on, and moves both sides when it is delivered: every message once, and no more sent twice than was under way")
  func delivered() {
    var duo = Duo.established(delay: .milliseconds(50 as Int64))
    let (second, parking) = park(&duo)
    send(0..<200, from: &duo)
    duo.run(for: .milliseconds(120 as Int64))
    let before = Duo.messages(duo.effectsOfA).count
    #expect(before > 0 && before < 200)
    #expect(duo.a.activeCarrier == CarrierID(1) && duo.z?.activeCarrier == CarrierID(1))
    duo.blackHole(CarrierID(1))  // the machine has left
    let underWay = duo.z!.unacknowledged
    duo.run(for: .milliseconds(300 as Int64))
    let delivered = duo.network.now
    duo.receiveAtZ(parking.flights[0], on: duo.lines[second]!)
    duo.effectsOfA.removeAll()
    duo.run(for: .milliseconds(149 as Int64))
    #expect(Duo.messages(duo.effectsOfA).isEmpty)
    // What Z had sent in the last round trip of the old path, and A had got, comes once more in front of it.
    duo.run(for: .milliseconds(105 as Int64))
    #expect(!Duo.messages(duo.effectsOfA).isEmpty)
    #expect(duo.network.now - delivered < .milliseconds(260 as Int64), "one one-way delay, and one old round trip of octets")
    duo.run(for: .seconds(5.0))
    #expect(before + Duo.messages(duo.effectsOfA).count == 200)
    #expect(duo.a.activeCarrier == second && duo.z?.activeCarrier == second)
    #expect(Duo.moves(duo.effectsOfA) == [second] && Duo.moves(duo.effectsOfZ) == [second])
    #expect(duo.z!.statistics.octetsRetransmitted <= underWay)
  }

  @Test("that is given up was never seen: the old carrier goes on, and a later move works")
  func givenUp() {
    var duo = Duo.established()
    let (second, _) = park(&duo)
    duo.a.unpark()
    duo.cut(second)
    send(0..<20, from: &duo)
    duo.run(for: .seconds(1.0))
    #expect(Duo.messages(duo.effectsOfA).count == 20)
    #expect(duo.a.activeCarrier == CarrierID(1) && duo.z?.activeCarrier == CarrierID(1))
    #expect(Duo.moves(duo.effectsOfA).isEmpty && Duo.moves(duo.effectsOfZ).isEmpty)
    let (third, parking) = park(&duo)
    duo.receiveAtZ(parking.flights[0], on: duo.lines[third]!)
    duo.run(for: .seconds(1.0))
    #expect(duo.z?.activeCarrier == third && duo.a.activeCarrier == third)
  }

  @Test("whose carrier closes is given up")
  func closed() {
    var duo = Duo.established()
    let (second, _) = park(&duo)
    duo.cut(second)
    let third = duo.dial()
    duo.move(to: third)
    send(0..<20, from: &duo)
    duo.run(for: .seconds(1.0))
    #expect(Duo.messages(duo.effectsOfA).count == 20)
    #expect(duo.z?.activeCarrier == third && duo.a.activeCarrier == third)
  }

  @Test("gives way to a move that is made before it is delivered")
  func overtaken() {
    var duo = Duo.established()
    let (second, parking) = park(&duo)
    let third = duo.dial()
    duo.move(to: third)
    duo.run(for: .seconds(1.0))
    #expect(duo.z?.activeCarrier == third && duo.a.activeCarrier == third)
    // Delivered late after all: its serial number has been, so it moves nothing.
    duo.receiveAtZ(parking.flights[0], on: duo.lines[second]!)
    send(0..<20, from: &duo)
    duo.run(for: .seconds(1.0))
    #expect(duo.z?.activeCarrier == third && duo.a.activeCarrier == third)
    #expect(Duo.messages(duo.effectsOfA).count == 20)
  }

  @Test("is not made while another request is out")
  func busy() {
    var duo = Duo.established(delay: .milliseconds(100 as Int64))
    duo.a.announce(IPAddress("10.0.1.9")!, at: duo.network.now)
    duo.pump()
    let second = duo.dial()
    let early = duo.a.park(on: second, localAddress: Duo.a1, at: duo.network.now)
    #expect(!early)
    duo.run(for: .seconds(1.0))
    let late = duo.a.park(on: second, localAddress: Duo.a1, at: duo.network.now)
    #expect(late)
  }

  @Test("an answer without authentication, or to another request, does not take it")
  func forged() {
    var duo = Duo.established()
    let (second, _) = park(&duo)
    duo.a.receive(ByteBuffer(repeating: 0, count: 40), on: second, at: duo.network.now)
    duo.run(for: .seconds(1.0))
    #expect(duo.a.activeCarrier == CarrierID(1))
    send(0..<5, from: &duo)
    duo.run(for: .seconds(1.0))
    #expect(Duo.messages(duo.effectsOfA).count == 5)
  }
}
