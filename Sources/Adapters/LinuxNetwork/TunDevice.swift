import CLinux
import Glibc
import Vocabulary

/// The calling thread, as Linux lets it be set.
package enum CurrentThread {
  package static func enter(_ namespace: Namespace) throws(SystemError) {
    guard longhaul_enter_namespace(namespace.path) == 0 else { throw SystemError("enter namespace \(namespace)") }
  }

  /// Asks for SCHED_FIFO and for timers that are not rounded; false where that is not allowed.
  package static func becomePunctual() -> Bool {
    _ = longhaul_set_timer_slack(1)
    return longhaul_set_realtime(10) == 0
  }
}

/// A TUN device's end in this program: packets behind a virtio-net header of ten octets.
package struct TunDevice: ~Copyable, Sendable {
  package static let headerLength = 10
  package let descriptor: Int32

  /// Makes the device in a namespace and stays, as a thread, in that namespace.
  package init(_ name: String, in namespace: Namespace, offload: Bool) throws(SystemError) {
    self.init(descriptor: try TunDevice.open(name, in: namespace, offload: offload))
  }

  private init(descriptor: Int32) { self.descriptor = descriptor }

  private static func open(_ name: String, in namespace: Namespace, offload: Bool) throws(SystemError) -> Int32 {
    try CurrentThread.enter(namespace)
    let descriptor = longhaul_open_tun(name, offload ? 1 : 0)
    guard descriptor >= 0 else { throw SystemError("open the TUN device \(name) in namespace \(namespace)") }
    return descriptor
  }

  deinit { close(descriptor) }
}

/// Waits until one of two descriptors can be read, or the time is over.
package func waitToRead(_ a: Int32, _ b: Int32, _ c: Int32, for span: TimeSpan?) {
  var descriptors = [a, b, c].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
  _ = longhaul_poll(&descriptors, 3, span?.nanoseconds ?? -1)
}
