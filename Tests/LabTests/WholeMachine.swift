import Testing

/// What takes the whole machine runs one test after another: network namespaces, real-time threads, virtual machines, and the lab's one lock.
@Suite("The whole machine", .serialized)
enum WholeMachine {}
