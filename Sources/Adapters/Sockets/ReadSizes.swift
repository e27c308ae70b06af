import NIOCore

/// Reads that grow with what comes, from 2 KiB on: NIO keeps a socket's latest read buffer, so that a fixed size is what each of ten thousand idle sockets costs.
package func growingReads(upTo octets: Int) -> AdaptiveRecvByteBufferAllocator {
  AdaptiveRecvByteBufferAllocator(minimum: 2 << 10, initial: 2 << 10, maximum: octets)
}
