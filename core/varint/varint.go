// Package varint writes and reads the varints of encoding/binary, byte for byte the same and the same errors, without a loop
// over bytes: a beacon's events and states are mostly varints, and writing and reading them is a tenth of what a beacon costs.
package varint

import (
	"encoding/binary"
	"math/bits"
)

// Append appends the varint of v, 1 to 10 bytes.
func Append(b []byte, v uint64) []byte {
	if v < 0x80 {
		return append(b, byte(v))
	}
	return appendLong(b, v)
}

// AppendSigned appends the varint of the zigzag form of v.
func AppendSigned(b []byte, v int64) []byte {
	return Append(b, uint64(v)<<1^uint64(v>>63))
}

const (
	most  = 1<<56 - 1          // of 8 bytes, 7 bits each
	marks = 0x8080808080808080 // the bits that say that more follows
)

func appendLong(b []byte, v uint64) []byte {
	if v > most {
		return binary.AppendUvarint(b, v)
	}
	n := (bits.Len64(v) + 6) / 7
	// 7 bits to each byte, lowest first: halves apart, then quarters, then eighths.
	v = v&0x000000000fffffff | v<<4&0x0fffffff00000000
	v = v&0x00003fff00003fff | v<<2&0x3fff00003fff0000
	v = v&0x007f007f007f007f | v<<1&0x7f007f007f007f00
	return binary.LittleEndian.AppendUint64(b, v|marks&(1<<(8*n-8)-1))[:len(b)+n]
}

// Read returns the varint at the head of b and its length, as binary.Uvarint does: n is 0 if b ends before it, and below 0 if it
// does not go into 64 bits.
func Read(b []byte) (v uint64, n int) {
	if len(b) < 8 {
		return binary.Uvarint(b)
	}
	v = binary.LittleEndian.Uint64(b)
	end := ^v & marks
	if end == 0 {
		return binary.Uvarint(b)
	}
	v &= end ^ (end-1)&^marks
	v = v&0x007f007f007f007f | v>>1&0x3f803f803f803f80
	v = v&0x00003fff00003fff | v>>2&0x0fffc0000fffc000
	v = v&0x000000000fffffff | v>>4&0x00fffffff0000000
	return v, bits.TrailingZeros64(end)/8 + 1
}
