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

/// The input that is being run, behind its count, in a file that outlives even a stack overflow, of which libFuzzer cannot write anything itself.
nonisolated(unsafe) private var last: UnsafeMutableRawPointer?
private let lastOctets = 4_096

private func keepLast() {
  guard let path = getenv("LONGHAUL_FUZZ_LAST") else { return }
  let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC, 0o600)
  guard descriptor >= 0, ftruncate(descriptor, 4 + lastOctets) == 0 else { return }
  let map = mmap(nil, 4 + lastOctets, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
  if map != MAP_FAILED { last = map }
}

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
    keepLast()
    exit(
      runFuzzer(&count, &arguments) { octets, count in
        if let last, count <= lastOctets {
          last.storeBytes(of: UInt32(count), as: UInt32.self)
          if let octets { (last + 4).copyMemory(from: octets, byteCount: count) }
        }
        target(Array(UnsafeBufferPointer(start: octets, count: count)))
        return 0
      })
  }
}
