import Dispatch

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Runs a service until it ends by itself, or until SIGINT or SIGTERM asks it to; then its task is cancelled and it may finish in its own way.
package func runUntilSignalled(_ service: @escaping @Sendable () async throws -> Void) async throws {
  let task = Task { try await service() }
  let sources = [SIGINT, SIGTERM].map { number in
    signal(number, SIG_IGN)  // the source sees it; the default action must not
    let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
    source.setEventHandler { task.cancel() }
    source.resume()
    return source
  }
  defer { for source in sources { source.cancel() } }
  // A peer that goes away is an error of one write, not the end of the program.
  signal(SIGPIPE, SIG_IGN)
  do {
    try await task.value
  } catch is CancellationError {
    return
  }
}
