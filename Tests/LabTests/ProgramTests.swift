import Foundation
import LinuxNetwork
import Testing

@Suite("Programs")
struct ProgramTests {
  @Test("give their output, and take an input")
  func output() throws {
    #expect(try Shell.run(["echo", "a b"]) == "a b\n")
    #expect(try Shell.run(["cat"], input: "through") == "through")
  }

  @Test("that fail are told with their status and their last words")
  func failure() {
    #expect {
      try Shell.run(["sh", "-c", "echo first >&2; echo last >&2; exit 3"])
    } throws: {
      "\($0)".contains("status 3: last")
    }
    #expect {
      try Shell.run(["sh", "-c", "kill -9 $$"])
    } throws: {
      "\($0)".contains("status 137")
    }
    #expect {
      try Shell.run(["no-such-program"])
    } throws: {
      "\($0)".contains("no-such-program")
    }
  }

  @Test("that say much on both pipes fill neither")
  func both() throws {
    let text = try Shell.run(["sh", "-c", "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero"])
    #expect(text.utf8.count == 300_000)
  }

  @Test("inherit nothing but their three descriptors, and leave none behind")
  func descriptors() throws {
    let kept = try Program.pipe()
    defer {
      close(kept.read)
      close(kept.write)
    }
    // What a shell's child sees: three, and the one that lists them.
    #expect(try Shell.run(["sh", "-c", "ls /proc/self/fd | wc -l"]).trimmingCharacters(in: .whitespacesAndNewlines) == "4")
    func last() throws -> Int32 {
      let pipe = try Program.pipe()
      defer {
        close(pipe.read)
        close(pipe.write)
      }
      return pipe.write
    }
    let before = try last()
    for _ in 0..<50 { try Shell.run(["true"]) }
    // Suites beside this one open descriptors, too; fifty programs with six each would be 300.
    #expect(try last() < before + 100)
  }

  @Test("a bell that has rung is heard, also beside other descriptors")
  func bell() throws {
    let bell = try Bell()
    var entry = pollfd(fd: bell.descriptor, events: Int16(POLLIN), revents: 0)
    #expect(poll(&entry, 1, 0) == 0)
    bell.ring()
    #expect(poll(&entry, 1, 0) == 1)
    bell.wait()
  }
}
