import Foundation
import Testing

/// The rules of ARCHITECTURE.md, read off the sources themselves: what a file imports, and from which layer.
@Suite("The layers")
struct LayerTests {
  static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
  static let layers = ["C", "Engines", "Adapters", "Services", "App"]

  struct Source {
    let layer: String
    let module: String
    let path: String
    let imports: [String]
  }

  static func sources() throws -> [Source] {
    try layers.flatMap { layer -> [Source] in
      let folder = root.appendingPathComponent("Sources/\(layer)")
      return try FileManager.default.subpathsOfDirectory(atPath: folder.path).filter { $0.hasSuffix(".swift") }.map { path in
        let text = try String(contentsOf: folder.appendingPathComponent(path), encoding: .utf8)
        return Source(
          layer: layer, module: String(path.prefix { $0 != "/" }), path: "Sources/\(layer)/\(path)", imports: importedModules(in: text))
      }
    }
  }

  /// Every import counts, also one behind `#if`, with an attribute, or of a single declaration.
  static func importedModules(in text: String) -> [String] {
    text.split(separator: "\n").compactMap { line in
      var words = line.split(whereSeparator: \.isWhitespace)
      while let first = words.first, first.hasPrefix("@") || ["package", "private", "fileprivate", "internal", "public"].contains(first) {
        words.removeFirst()
      }
      guard words.first == "import", words.count >= 2 else { return nil }
      let kinds = ["struct", "class", "enum", "protocol", "func", "var", "let", "typealias"]
      let name = words.count > 2 && kinds.contains(String(words[1])) ? words[2] : words[1]
      return String(name.prefix { $0 != "." && $0 != "/" })
    }
  }

  static func modules(of layer: String) throws -> Set<String> {
    Set(try FileManager.default.contentsOfDirectory(atPath: root.appendingPathComponent("Sources/\(layer)").path))
  }

  @Test("a file imports only from its own layer and those below")
  func down() throws {
    var rank: [String: Int] = [:]
    for (index, layer) in Self.layers.enumerated() {
      for module in try Self.modules(of: layer) { rank[module] = index }
    }
    let sources = try Self.sources()
    #expect(sources.count > 20, "the test looks at the wrong folder")
    for source in sources {
      for module in source.imports {
        guard let theirs = rank[module], let ours = rank[source.module] else { continue }
        #expect(theirs <= ours, "\(source.path) imports \(module) from a layer above")
      }
    }
  }

  @Test("services never import each other")
  func services() throws {
    let services = try Self.modules(of: "Services")
    for source in try Self.sources() where source.layer == "Services" {
      for module in source.imports { #expect(!services.contains(module), "\(source.path) imports the service \(module)") }
    }
  }

  @Test("engines are pure: no Foundation, no NIO but ByteBuffer's module, no logging, no C library, no cryptography")
  func engines() throws {
    let allowed = try Self.modules(of: "Engines").union(["NIOCore", "DequeModule", "HeapModule", "CChecksum"])
    for source in try Self.sources() where source.layer == "Engines" {
      for module in source.imports { #expect(allowed.contains(module), "\(source.path) imports \(module)") }
      let text = try String(contentsOf: Self.root.appendingPathComponent(source.path), encoding: .utf8)
      for name in ["EventLoop", "ChannelHandler", "NIODeadline", "SystemRandomNumberGenerator", "ContinuousClock", "SuspendingClock"] {
        #expect(!text.contains(name), "\(source.path) names \(name)")
      }
    }
  }

  @Test("each C shim is seen by one Swift target; the checksum, which is arithmetic alone, by its two")
  func shims() throws {
    let sources = try Self.sources()
    for shim in try Self.modules(of: "C") {
      let users = Set(sources.filter { $0.imports.contains(shim) }.map(\.module))
      if shim == "CChecksum" {
        #expect(users == ["SCTP", "ChunkStores"])
      } else {
        #expect(users.count == 1, "\(shim) is imported by \(users.sorted())")
      }
    }
  }

  @Test("every folder of the sources says what it is")
  func readmes() throws {
    for layer in Self.layers.dropFirst() {
      for module in try Self.modules(of: layer) {
        let text = try String(contentsOf: Self.root.appendingPathComponent("Sources/\(layer)/\(module)/README.md"), encoding: .utf8)
        #expect(text.count > 200, "Sources/\(layer)/\(module)/README.md is a stub")
      }
    }
  }

  @Test("the reader of imports sees every form")
  func reader() {
    let text = "import A\n@preconcurrency import B\n  import struct C.D\n#if x\n  package import E\n// import F\nimportant G\nimport H.I\n"
    #expect(Self.importedModules(in: text) == ["A", "B", "C", "E", "H"])
  }
}
