import Synchronization

/// What has arrived, kept; tests wait for the next that fits, and fail when it does not come in time.
final class Inbox<Element: Sendable>: Sendable {
  struct TooLate: Error, CustomStringConvertible {
    var what: String
    var seen: [Element]
    var description: String { "\(what) did not come; what came: \(seen)" }
  }

  private struct Waiter {
    var id: Int
    var fits: @Sendable (Element) -> Bool
    var continuation: CheckedContinuation<Element?, Never>
  }

  private struct State {
    var items: [Element] = []
    var read = 0
    var waiters: [Waiter] = []
    var lastID = 0
  }

  private let state = Mutex(State())

  var all: [Element] { state.withLock { $0.items } }

  func add(_ item: Element) {
    let woken = state.withLock { state -> [Waiter] in
      state.items.append(item)
      let woken = state.waiters.filter { $0.fits(item) }
      guard !woken.isEmpty else { return [] }
      state.read = state.items.count
      state.waiters.removeAll { waiter in woken.contains { $0.id == waiter.id } }
      return woken
    }
    for waiter in woken { waiter.continuation.resume(returning: item) }
  }

  /// The next one that fits behind the last that was waited for.
  @discardableResult
  func next(
    _ what: String, within seconds: Double = 20, where fits: @escaping @Sendable (Element) -> Bool = { _ in true }
  ) async throws -> Element {
    let found: Element? = await withCheckedContinuation { continuation in
      let now = state.withLock { state -> (item: Element?, id: Int?) in
        if let index = state.items.indices.dropFirst(state.read).first(where: { fits(state.items[$0]) }) {
          state.read = index + 1
          return (state.items[index], nil)
        }
        state.lastID += 1
        state.waiters.append(Waiter(id: state.lastID, fits: fits, continuation: continuation))
        return (nil, state.lastID)
      }
      guard let id = now.id else { return continuation.resume(returning: now.item) }
      Task {
        try await Task.sleep(for: .seconds(seconds))
        let late = state.withLock { state in
          let late = state.waiters.filter { $0.id == id }
          state.waiters.removeAll { $0.id == id }
          return late
        }
        for waiter in late { waiter.continuation.resume(returning: nil) }
      }
    }
    guard let found else { throw TooLate(what: what, seen: all) }
    return found
  }
}

/// Runs something in the background for as long as the body takes.
func during<Result: Sendable>(
  _ background: @escaping @Sendable () async throws -> Void, _ body: () async throws -> Result
) async throws -> Result {
  let task = Task { try await background() }
  do {
    let result = try await body()
    task.cancel()
    _ = await task.result
    return result
  } catch {
    task.cancel()
    _ = await task.result
    throw error
  }
}
