// Package row is the stored and wire form of one metric row: all (variation, tag set) values of one (tenant,
// experiment, metric, layer, minute), packed into one blob (SPEC 6, 9). Names of the row itself, its minute and its
// version stand outside, in the key of whoever holds it.
//
// The encoding is canonical: equal sets of cells give equal bytes, and a decoder takes nothing but those bytes.
//
// # Format, version 1
//
//	┌───────────────┬────────────┬────────────────┬────────────────┬──────────────┬────────────┬──────────────┐
//	│ version <1b>  │ kind <1b>  │ variations     │ tag sets       │ runs         │ values     │ checksum <4b>│
//	└───────────────┴────────────┴────────────────┴────────────────┴──────────────┴────────────┴──────────────┘
//
// uvarint is the unsigned LEB128 of encoding/binary, varint its zigzag form; both in as few bytes as they go.
//
//   - version: 1.
//   - kind: 1 = sums, 2 = sketches.
//   - variations, tag sets: two dictionaries, each the distinct strings of the cells in ascending byte order. They do
//     not change from minute to minute as values do, which is why they come first and apart: a block compressor folds
//     them over neighbouring rows, and a Reader that meets the same dictionaries again does not decode them again.
//
// A dictionary:
//
//	┌─────────────────┬────────────────────────────────────────────────────────────────────┬─────┐
//	│ count <uvarint> │ shared <uvarint> │ rest length <uvarint> │ rest <rest length bytes> │ ... │
//	└─────────────────┴────────────────────────────────────────────────────────────────────┴─────┘
//
// shared is the length of the longest common prefix with the string before it (0 for the first). Only the first string
// may be empty (no variation: the site scope; no tags).
//
//   - runs: for each variation, which of the tag sets have a cell, as runs of neighbours in the dictionary. A variation
//     has at least one cell, and every tag set belongs to at least one.
//
// The runs of one variation:
//
//	┌────────────────────┬─────────────────────────────────────────┬─────┐
//	│ count-1 <uvarint>  │ skip <uvarint> │ take-1 <uvarint>       │ ... │
//	└────────────────────┴─────────────────────────────────────────┴─────┘
//
// skip is the number of tag sets without a cell before the run, for all runs but the first less one (two runs never
// touch).
//
//   - values: one for each cell, in the order of (variation, tag set). Sums: varint. Sketches: length <uvarint> (at
//     least 1), then so many bytes.
//   - checksum: the low 32 bits of XXH64 (seed 0) of all bytes before it, little endian.
//
// A row without cells is eight bytes long and valid: it says that the row is empty.
//
// # Evolution
//
// The first byte is the version and the last four are the checksum in every version, so that damage is told from
// age: a row whose checksum holds and whose version is unknown was written by a newer release. A change of anything
// above is a new version number; a release reads all versions that may still be stored (the longest retention is 400
// days) and writes the newest that the readers in place, which are upgraded first, understand. Kinds are only added,
// never reused; a new kind needs a new version too, because an old reader must not take it for damage.
package row
