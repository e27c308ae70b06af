import FuzzHarness
import Glibc

// libFuzzer, with its own options behind the target's name: `fuzz association corpus/ -max_total_time=60`. Built by scripts/fuzz.

@_silgen_name("LLVMFuzzerRunDriver")
private func runFuzzer(
  _ count: UnsafeMutablePointer<Int32>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ test: @convention(c) (UnsafePointer<UInt8>?, Int) -> Int32
) -> Int32

/// Set once, before the fuzzer runs; its callback is a C function and can hold nothing.
nonisolated(unsafe) private var target: ([UInt8]) -> Void = { _ in }

@main
struct Fuzz {
  static func main() {
    let name = CommandLine.arguments.dropFirst().first ?? ""
    guard let found = fuzzTargets.first(where: { $0.name == name }) else {
      print("fuzz: the target \(name) is unknown; choose one of \(fuzzTargets.map(\.name).joined(separator: ", "))")
      exit(64)
    }
    target = found.run
    // The target's name is not libFuzzer's: what stands behind it moves to its place.
    var arguments = CommandLine.unsafeArgv
    arguments[1] = arguments[0]
    arguments += 1
    var count = CommandLine.argc - 1
    exit(
      runFuzzer(&count, &arguments) { octets, count in
        target(Array(UnsafeBufferPointer(start: octets, count: count)))
        return 0
      })
  }
}
