import Foundation
import LinuxNetwork
import Synchronization

/// One network device of a namespace, to be switched, or to be spoken from, within microseconds: starting `ip` would take milliseconds of what is measured.
final class BenchPort: Sendable {
  /// linux/sockios.h
  private static let getFlags: UInt = 0x8913
  private static let setFlags: UInt = 0x8914
  private static let isUpFlag: UInt16 = 1
  private static let getIndex: UInt = 0x8933
  /// `struct ifreq`: the name, and a union.
  private static let requestOctets = 40
  private static let nameOctets = 16
  private static let etherTypeARP: UInt16 = 0x0806

  private let device: String
  /// An AF_PACKET socket; the namespace of the thread that made it is its own for ever.
  private let descriptor: Int32

  init(_ device: String, in namespace: Namespace) throws(LabError) {
    precondition(device.utf8.count < BenchPort.nameOctets)
    self.device = device
    let made = Mutex<Result<Int32, SystemError>>(.success(-1))
    let isDone = DispatchSemaphore(value: 0)
    // A thread of its own: it does not come back from the namespace.
    Thread.detachNewThread {
      do throws(SystemError) {
        try CurrentThread.enter(namespace)
        let descriptor = socket(AF_PACKET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        if descriptor < 0 { throw SystemError("open a packet socket in \(namespace)") }
        made.withLock { $0 = .success(descriptor) }
      } catch {
        made.withLock { $0 = .failure(error) }
      }
      isDone.signal()
    }
    isDone.wait()
    switch made.withLock({ $0 }) {
    case .success(let descriptor): self.descriptor = descriptor
    case .failure(let error): throw .network("\(error)")
    }
  }

  deinit { close(descriptor) }

  func set(isUp: Bool) throws(LabError) {
    var request = try ask(BenchPort.getFlags)
    let low = BenchPort.nameOctets
    let flags = UInt16(request[low]) | UInt16(request[low + 1]) << 8
    let new = isUp ? flags | BenchPort.isUpFlag : flags & ~BenchPort.isUpFlag
    request[low] = UInt8(truncatingIfNeeded: new)
    request[low + 1] = UInt8(truncatingIfNeeded: new >> 8)
    guard ioctl(descriptor, BenchPort.setFlags, &request) == 0 else {
      throw .network(SystemError("switch \(device) \(isUp ? "on" : "off")").description)
    }
  }

  /// A gratuitous ARP for an address, as a guest's network card sends when the guest has arrived (RFC 5227 section 3).
  func announce(_ address: [UInt8], hardware: [UInt8]) throws(LabError) {
    let index = try ask(BenchPort.getIndex)[BenchPort.nameOctets..<(BenchPort.nameOctets + 4)]
    var packet: [UInt8] = [0, 1, 8, 0, 6, 4, 0, 1]  // Ethernet, IPv4, their lengths, request
    packet += hardware + address + [0, 0, 0, 0, 0, 0] + address
    // struct sockaddr_ll, of which only family, protocol, device and address matter when sending; to everybody.
    var to = [UInt8](repeating: 0xff, count: 20)
    to.replaceSubrange(0..<2, with: [UInt8(AF_PACKET), 0])
    to.replaceSubrange(2..<4, with: [UInt8(BenchPort.etherTypeARP >> 8), UInt8(BenchPort.etherTypeARP & 0xff)])
    to.replaceSubrange(4..<8, with: index)
    to.replaceSubrange(8..<12, with: [1, 0, 0, 6])
    let sent = to.withUnsafeBytes { raw in
      raw.withMemoryRebound(to: sockaddr.self) { sendto(descriptor, packet, packet.count, 0, $0.baseAddress, socklen_t(raw.count)) }
    }
    guard sent == packet.count else { throw .network(SystemError("announce the machine on \(device)").description) }
  }

  private func ask(_ what: UInt) throws(LabError) -> [UInt8] {
    var request = [UInt8](repeating: 0, count: BenchPort.requestOctets)
    request.replaceSubrange(0..<device.utf8.count, with: device.utf8)
    guard ioctl(descriptor, what, &request) == 0 else { throw .network(SystemError("ask for \(device)").description) }
    return request
  }
}
