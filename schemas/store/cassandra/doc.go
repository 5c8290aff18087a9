// Package cassandra is the metric store on Apache Cassandra 5 (DESIGN 7), through gocql. The tables are in cql.
//
// # Times and lives
//
// Of the writes to one key Cassandra keeps the one with the greatest time, so each write names its own, which is the
// order of versions that the port asks for; nothing is read before it is written.
//
//	rows, rollups   minute in us + version      TTL: expiry - now, in whole seconds
//	coverage        generation                  none
//	progress        closed before in us         none; of equal times the greater value, the version, stands
//	active          sequence                    none
//	the catalog     the clock                   until the rows that it tells of have expired
//
// A TTL counts from the moment of writing: it is computed anew for each attempt, and what has expired by then is not
// written. A row may vanish up to a second before it expires. One that never expires, or not within MaxLife, has no TTL:
// so a history of years ago is stored whole when its rows do not expire.
//
// Equal versions with unequal values, which writers do not write: one of the two stands, whole. It is the one that
// expires later by the servers' clocks, in seconds, then the greater value (of values in parts, the greater digest).
//
// # Values
//
//	0 <1b> | value                                                         the whole value, up to 64 KiB
//	1 <1b> | parts <2b, big endian> | XXH64 of the value <8b> | a part     each of the parts
//
// All parts of a value are written in one batch of one partition, which is one mutation and so is applied whole. A value
// with fewer parts leaves those of an older one behind, until they expire: a reader takes the parts that have the time and
// the digest of part 0. A reader between two pages may see parts of two versions; it then reads that row again.
//
// # Deleting
//
// DeleteLayerWindow deletes the range of minutes with the greatest time that a write to its last minute can have. That
// hides all that was written and can be written to these minutes, and nothing else. Tombstones go after gc_grace_seconds,
// 3 hours; a node that was away for longer may bring rows back, which then live until they expire, unnamed by any coverage.
// What is written to the layer by others while the call runs may be missing from the catalog.
//
// # Limits
//
// A batch holds rows of one partition: at most 64 KiB of values and 200 rows, or one larger row. Config.MaxInFlight batches
// are under way at once, whoever writes; a large row counts as several. Beyond that, writers wait: so the copies that
// the store makes stay below MaxInFlight x 64 KiB or one row of 8 MiB, whichever is more. The set of series known to be in the
// catalog begins anew at 100,000 entries (they are then written to the catalog again). A page of a reader has 500 parts.
// The servers must take a mutation of a row's greatest size, 8 MiB: commitlog_segment_size of at least 32 MiB, the default.
//
// # Outages
//
// What fails for want of servers is tried again until its context ends, after 50 ms at first and 2 s at last, whether one
// node is away, all of them, or only too few for the consistency; Stats counts it. What trying again cannot help (a
// missing table, no permission, a value that the servers refuse) is returned at once.
package cassandra
