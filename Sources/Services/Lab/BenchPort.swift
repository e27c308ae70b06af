import Foundation
import LinuxNetwork
import Synchronization

/// One network device of a namespace, to be switched, or to be spoken from, within microseconds: starting `ip` would take milliseconds of what is measured.
final class BenchPort: Sendable {
  /// linux/sockios.h: SIOCGIFINDEX, with a `struct ifreq`, which is a name and a union.
  private static let getIndex: UInt = 0x8933
  private static let requestOctets = 40
  private static let nameOctets = 16
  private static let etherTypeARP: UInt16 = 0x0806

  private let device: String
  private let index: Int32
  /// Sockets stay in the namespace of the thread that made them.
  private let packets: Int32
  private let netlink: Int32

  init(_ device: String, in namespace: Namespace) throws(LabError) {
    precondition(device.utf8.count < BenchPort.nameOctets)
    self.device = device
    let made = Mutex<Result<(Int32, Int32, Int32), SystemError>?>(nil)
    let isDone = DispatchSemaphore(value: 0)
    // A thread of its own: it does not come back from the namespace.
    Thread.detachNewThread {
      do throws(SystemError) {
        try CurrentThread.enter(namespace)
        let sockets = try BenchPort.sockets(device)
        made.withLock { $0 = .success(sockets) }
      } catch {
        made.withLock { $0 = .failure(error) }
      }
      isDone.signal()
    }
    isDone.wait()
    switch made.withLock({ $0 }) {
    case .success(let (packets, netlink, index))?: (self.packets, self.netlink, self.index) = (packets, netlink, index)
    case .failure(let error)?: throw .network("\(error)")
    case nil: preconditionFailure("the thread gives one or the other")
    }
  }

  private static func sockets(_ device: String) throws(SystemError) -> (packets: Int32, netlink: Int32, index: Int32) {
    let packets = socket(AF_PACKET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard packets >= 0 else { throw SystemError("open a packet socket") }
    let netlink = socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)  // NETLINK_ROUTE
    guard netlink >= 0 else { throw SystemError("open a netlink socket") }
    var request = [UInt8](repeating: 0, count: requestOctets)
    request.replaceSubrange(0..<device.utf8.count, with: device.utf8)
    guard ioctl(packets, getIndex, &request) == 0 else { throw SystemError("ask for the device \(device)") }
    let index = request.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: nameOctets, as: Int32.self) }
    return (packets, netlink, index)
  }

  deinit {
    close(packets)
    close(netlink)
  }

  /// Plugs it into a bridge (by `index`), or unplugs it. (Taking the device down would do that, too, but the news of it travels to the cable's other end in the kernel's own time,
  /// which may be a second; and a bridge without STP does not let a port be blocked.)
  func plug(into bridge: BenchPort?) throws(LabError) {
    var message: [UInt8] = []
    func append(_ value: some FixedWidthInteger) { withUnsafeBytes(of: value) { message += $0 } }
    append(UInt32(40))  // struct nlmsghdr: length ...
    append(UInt16(19))  // ... RTM_SETLINK ...
    append(UInt16(1 | 4))  // ... NLM_F_REQUEST, NLM_F_ACK ...
    append(UInt64(1))  // ... sequence, port
    append(UInt32(0))  // struct ifinfomsg: AF_UNSPEC ...
    append(index)
    append(UInt64(0))  // ... flags, and which of them change
    append(UInt16(8))
    append(UInt16(10))  // IFLA_MASTER
    append(bridge?.index ?? 0)
    guard Glibc.send(netlink, message, message.count, 0) == message.count else {
      throw .network(SystemError("plug the bridge port \(device)").description)
    }
    // The answer, struct nlmsgerr, comes when it is done.
    var answer = [UInt8](repeating: 0, count: 4_096)
    guard recv(netlink, &answer, answer.count, 0) >= 20 else { throw .network(SystemError("plug the bridge port \(device)").description) }
    let code = answer.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 16, as: Int32.self) }
    guard code == 0 else { throw .network(SystemError("plug the bridge port \(device)", code: -code).description) }
  }

  /// A gratuitous ARP for an address, as a guest's network card sends when the guest has arrived (RFC 5227 section 3).
  func announce(_ address: [UInt8], hardware: [UInt8]) throws(LabError) {
    var packet: [UInt8] = [0, 1, 8, 0, 6, 4, 0, 1]  // Ethernet, IPv4, their lengths, request
    packet += hardware + address + [0, 0, 0, 0, 0, 0] + address
    // struct sockaddr_ll, of which only family, protocol, device and address matter when sending; to everybody.
    var to = [UInt8](repeating: 0xff, count: 20)
    to.replaceSubrange(0..<2, with: [UInt8(AF_PACKET), 0])
    to.replaceSubrange(2..<4, with: [UInt8(BenchPort.etherTypeARP >> 8), UInt8(BenchPort.etherTypeARP & 0xff)])
    withUnsafeBytes(of: index) { to.replaceSubrange(4..<8, with: $0) }
    to.replaceSubrange(8..<12, with: [1, 0, 0, 6])
    let sent = to.withUnsafeBytes { raw in
      raw.withMemoryRebound(to: sockaddr.self) { sendto(packets, packet, packet.count, 0, $0.baseAddress, socklen_t(raw.count)) }
    }
    guard sent == packet.count else { throw .network(SystemError("announce the machine on \(device)").description) }
  }
}
