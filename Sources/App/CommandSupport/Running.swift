import Dispatch
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Runs a service until it ends by itself, or until SIGINT or SIGTERM asks it to; then its task is cancelled and it may finish in its own way.
///
/// - Parameters:
///   - drain: for a service that can end in peace: the first SIGTERM calls it, and only a second one, or SIGINT, cancels the task.
///   - reload: called for SIGHUP, which without it ends the program as ever.
package func runUntilSignalled(
  drain: (@Sendable () -> Void)? = nil, reload: (@Sendable () -> Void)? = nil, _ service: @escaping @Sendable () async throws -> Void
) async throws {
  let task = Task { try await service() }
  let isDraining = Mutex(false)
  func watch(_ number: Int32, _ handler: @escaping @Sendable () -> Void) -> any DispatchSourceSignal {
    signal(number, SIG_IGN)  // the source sees it; the default action must not
    let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
    source.setEventHandler(handler: handler)
    source.resume()
    return source
  }
  let terminate: @Sendable () -> Void = {
    let isFirst = isDraining.withLock { was in
      defer { was = true }
      return !was
    }
    if let drain, isFirst { drain() } else { task.cancel() }
  }
  var sources = [watch(SIGINT) { task.cancel() }, watch(SIGTERM, terminate)]
  if let reload { sources.append(watch(SIGHUP, reload)) }
  defer { for source in sources { source.cancel() } }
  // A peer that goes away is an error of one write, not the end of the program.
  signal(SIGPIPE, SIG_IGN)
  do {
    try await task.value
  } catch is CancellationError {
    return
  }
}
