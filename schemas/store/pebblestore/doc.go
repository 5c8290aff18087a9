// Package pebblestore is the embedded metric store of one machine, on Pebble (an LSM tree in one folder, or in memory).
//
// # Keys
//
//	table <1b> | names, each escaped and terminated | number <4b big endian>
//
//	'r' rows      tenant, experiment, metric, layer    minute
//	'w' rollups   tenant, experiment, metric, layer    window start in minutes
//	'k' catalog   tenant, experiment, metric, layer    -
//	'l' layers    tenant, layer, experiment, metric    -         the catalog once more, for DeleteLayerWindow
//	'p' progress  layer, tenant                        partition
//	'c' coverage  tenant                               window start in minutes
//	'a' active    tenant                               -
//	0 "format"                                         the version of this page: "1", not a record
//
// A byte 0 within a name is written as 0 255, a name ends with 0 1. So no two lists of names give the same key or one
// that is another's prefix, and keys sort as their names do, bytewise.
//
// # Records
//
//	hi <8b> | lo <8b> | payload | checksum <4b>
//
//	rows, rollups     hi = version         lo = expiry         payload = value
//	catalog, layers   hi = expiry          lo = expiry         no payload
//	progress          hi = closed before   lo = version        no payload
//	coverage          hi = generation      lo = 0              payload = data
//	active            hi = seq             lo = 0              payload = layer
//
// hi and lo are big endian and never negative; expiry is in ms since the epoch, never is 2^63-1. The checksum is the low
// 32 bits of XXH64 of all before it, little endian. It is checked by every read, and by nothing else.
//
// # The law of writes
//
// Writes are blind: Pebble's merge operator keeps, of all records written to a key, the bytewise greatest, hence the one
// with the greatest (hi, lo). The greatest of a set is associative, commutative and idempotent, so order, repeats and
// the moment of compaction do not matter, and there is nothing that could fail: a damaged record is compared like any
// other and reported when it is read.
//
// # Limits
//
// A call's rows are written in batches of about 4 MiB, each synced; a larger value makes a batch of its own. Memory: a
// block cache of 64 MiB, two memtables of 64 MiB (writers wait for the flush when both are full), and the set of series
// known to be in the catalog, which begins anew at 100,000 series (they are then written to the catalog again). What has
// expired is hidden at once, but leaves the disk only by Sweep.
package pebblestore
