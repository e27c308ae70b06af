import Accelerator
import ArgumentParser
import CommandSupport
import Vocabulary

/// Where the byte cache is, and how large.
struct CacheOptions: ParsableArguments {
  @Option(
    name: .customLong("cache"),
    help: "The folder of the byte cache, which survives a restart; without it the cache is in memory. One folder for each accelerator.")
  var folder: String?

  @Option(
    name: .customLong("cache-size"),
    help: "What the byte cache may take, for instance 512M or 20G; 10G in a folder and 256M in memory if not given.")
  var size: ByteCount?

  @Flag(name: .customLong("no-cache"), help: "Keep no copy of anything that goes by.")
  var isOff = false

  func validate() throws {
    if isOff, folder != nil || size != nil { throw ValidationError("--no-cache goes with neither --cache nor --cache-size") }
    if let size, size < CacheSettings.smallest { throw ValidationError("--cache-size: must be \(CacheSettings.sizeForm)") }
  }
}
