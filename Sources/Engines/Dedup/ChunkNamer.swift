/// Gives chunks their names. The hash is handed in: SHA-256 over the tenant's salt and the octets (docs/wire/bytecache.md).
package struct ChunkNamer: Sendable {
  private let name: @Sendable (UnsafeRawBufferPointer) -> ChunkName

  package init(_ name: @escaping @Sendable (UnsafeRawBufferPointer) -> ChunkName) { self.name = name }

  package func callAsFunction(_ octets: UnsafeRawBufferPointer) -> ChunkName { name(octets) }
}
