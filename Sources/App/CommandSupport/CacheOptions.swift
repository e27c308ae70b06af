import ArgumentParser
import ChunkStores
import Vocabulary

/// Where a role's byte cache is, and how large.
package struct CacheOptions: ParsableArguments {
  @Option(
    name: .customLong("cache"),
    help: "The folder of the byte cache, which survives a restart; without it the cache is in memory. One folder for each program.")
  package var folder: String?

  @Option(
    name: .customLong("cache-size"),
    help:
      "What the byte cache may take, for instance 512M or 20G; if not given 10G in a folder, and in memory 256M for an accelerator, 64M for a client, 32M for an agent."
  )
  package var size: ByteCount?

  @Flag(name: .customLong("no-cache"), help: "Keep no copy of anything that goes by.")
  package var isOff = false

  package init() {}

  /// `memory`: the role's usual size of a cache in memory.
  package func settings(memory: ByteCount) -> CacheSettings {
    isOff ? .none : CacheSettings(folder: folder, size: size, memory: memory)
  }

  package func validate() throws {
    if isOff, folder != nil || size != nil { throw ValidationError("--no-cache goes with neither --cache nor --cache-size") }
    if let size, size < CacheSettings.smallest { throw ValidationError("--cache-size: must be \(CacheSettings.sizeForm)") }
  }
}
