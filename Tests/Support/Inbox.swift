/// What comes from another thread, in its order; waited for with a limit, so that a test fails instead of hanging. One reader.
package struct Inbox<Element: Sendable>: Sendable {
  package struct NothingCame: Error {
    package init() {}
  }

  private let stream: AsyncStream<Element>
  private let continuation: AsyncStream<Element>.Continuation

  package init() { (stream, continuation) = AsyncStream.makeStream() }

  package func put(_ element: Element) { continuation.yield(element) }

  package func next(within limit: Duration = .seconds(20)) async throws -> Element {
    try await withThrowingTaskGroup(of: Element?.self) { group in
      group.addTask { [stream] in
        var iterator = stream.makeAsyncIterator()
        return await iterator.next()
      }
      group.addTask {
        try await Task.sleep(for: limit)
        return nil
      }
      defer { group.cancelAll() }
      guard let first = try await group.next(), let element = first else { throw NothingCame() }
      return element
    }
  }

  /// The first that fits; those before it are thrown away.
  package func next(within limit: Duration = .seconds(20), where fits: (Element) -> Bool) async throws -> Element {
    let until = ContinuousClock.now + limit
    while true {
      let element = try await next(within: until - .now)
      if fits(element) { return element }
    }
  }
}
