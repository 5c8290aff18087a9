// Package bitpack holds two encodings of Parquet that the libraries have for one value at a time only, here for a page at once:
// DELTA_BINARY_PACKED for integers, the hybrid of runs and packed bits for places in a dictionary.
package bitpack

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

var errPage = errors.New("its page cannot be decoded")

const (
	deltaBlock = 128 // values a block, in deltaMinis parts of the same size
	deltaMinis = 4
	deltaMini  = deltaBlock / deltaMinis
)

// AppendDelta appends values as DELTA_BINARY_PACKED.
func AppendDelta(b []byte, values []int64) []byte {
	b = binary.AppendUvarint(b, deltaBlock)
	b = binary.AppendUvarint(b, deltaMinis)
	b = binary.AppendUvarint(b, uint64(len(values)))
	if len(values) == 0 {
		return binary.AppendVarint(b, 0)
	}
	b = binary.AppendVarint(b, values[0])
	var deltas [deltaBlock]int64
	for at := 1; at < len(values); at += deltaBlock {
		n := min(deltaBlock, len(values)-at)
		least := values[at] - values[at-1]
		for i := range n {
			deltas[i] = values[at+i] - values[at+i-1]
			least = min(least, deltas[i])
		}
		b = binary.AppendVarint(b, least)
		head := len(b)
		b = append(b, make([]byte, deltaMinis)...)
		for m := 0; m*deltaMini < n; m++ {
			var packed [deltaMini]uint64 // zeros behind the last value
			all := uint64(0)
			for i := range min(deltaMini, n-m*deltaMini) {
				packed[i] = uint64(deltas[m*deltaMini+i]) - uint64(least)
				all |= packed[i]
			}
			width := bits.Len64(all)
			b[head+m] = byte(width)
			b = appendPacked(b, packed[:], width)
		}
	}
	return b
}

// appendPacked appends values in width bits each, the low bit first; there are a multiple of 8.
func appendPacked(b []byte, values []uint64, width int) []byte {
	acc, have := uint64(0), 0
	for _, v := range values {
		acc |= v << have
		if have += width; have >= 64 {
			b = binary.LittleEndian.AppendUint64(b, acc)
			have -= 64
			acc = 0
			if have > 0 {
				acc = v >> (width - have)
			}
		}
	}
	for ; have > 0; have -= 8 {
		b = append(b, byte(acc))
		acc >>= 8
	}
	return b
}

// unpack reads the i-th value of width bits, at most 64. There are 8 bytes behind the last one.
func unpack(b []byte, i, width int) uint64 {
	bit := i * width
	v := binary.LittleEndian.Uint64(b[bit>>3:]) >> (bit & 7)
	if width+bit&7 > 64 {
		v |= uint64(b[bit>>3+8]) << (64 - bit&7)
	}
	return v & (1<<width - 1)
}

// Padding is how many bytes must be readable behind a page.
const Padding = 8

// DecodeDelta fills values from b, which has Padding bytes more than the page.
func DecodeDelta(b []byte, values []int64) error {
	b, pad := b[:len(b)-Padding], b
	u := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			b = nil
			return 1 << 63
		}
		b = b[n:]
		return v
	}
	block, minis, count, first := u(), u(), u(), u()
	if block != deltaBlock || minis != deltaMinis || count != uint64(len(values)) || b == nil && len(values) > 0 {
		return errPage
	}
	if len(values) == 0 {
		return nil
	}
	last := int64(first>>1) ^ -int64(first&1)
	values[0] = last
	for at := 1; at < len(values); {
		zz := u()
		if len(b) < deltaMinis {
			return errPage
		}
		least := int64(zz>>1) ^ -int64(zz&1)
		widths := b[:deltaMinis]
		b = b[deltaMinis:]
		for _, w := range widths {
			if at >= len(values) {
				break
			}
			width := int(w)
			if width > 64 || len(b) < width*deltaMini/8 {
				return errPage
			}
			n := min(deltaMini, len(values)-at)
			out := values[at : at+n]
			switch from := pad[len(pad)-Padding-len(b):]; {
			case width == 0:
				for i := range out {
					last += least
					out[i] = last
				}
			case width <= 56:
				mask := uint64(1)<<width - 1
				for i, bit := 0, 0; i < len(out); i, bit = i+1, bit+width {
					last += least + int64(binary.LittleEndian.Uint64(from[bit>>3:])>>(bit&7)&mask)
					out[i] = last
				}
			default:
				for i := range out {
					last += least + int64(unpack(from, i, width))
					out[i] = last
				}
			}
			at += n
			b = b[width*deltaMini/8:]
		}
	}
	return nil
}

// AppendPlaces appends places in a dictionary of n values: a byte with their width, then runs and groups of 8.
func AppendPlaces(b []byte, places []int32, n int) []byte {
	width := bits.Len(uint(max(n-1, 0)))
	b = append(b, byte(width))
	run := func(at int) int {
		k := at + 1
		for k < len(places) && places[k] == places[at] {
			k++
		}
		return k - at
	}
	for at := 0; at < len(places); {
		if k := run(at); k >= 8 {
			b = binary.AppendUvarint(b, uint64(k)<<1)
			for v, w := uint32(places[at]), width; w > 0; v, w = v>>8, w-8 {
				b = append(b, byte(v))
			}
			at += k
			continue
		}
		to := at
		for to < len(places) && run(to) < 8 {
			to += 8
		}
		groups := (to - at) / 8
		b = binary.AppendUvarint(b, uint64(groups)<<1|1)
		for ; groups > 0; groups-- {
			var values [8]uint64 // zeros behind the last place
			for i := range min(8, len(places)-at) {
				values[i] = uint64(places[at+i])
			}
			b = appendPacked(b, values[:], width)
			at += 8
		}
	}
	return b
}

// DecodePlaces fills places, each below n, from b, which has Padding bytes more than the page.
func DecodePlaces(b []byte, places []int32, n int) error {
	b, pad := b[:len(b)-Padding], b
	if len(b) == 0 || b[0] > 31 {
		return errPage
	}
	width := int(b[0])
	b = b[1:]
	for at := 0; at < len(places); {
		head, k := binary.Uvarint(b)
		if k <= 0 || head < 2 {
			return errPage
		}
		b = b[k:]
		if head&1 == 0 {
			size := (width + 7) / 8
			if len(b) < size || head>>1 > uint64(len(places)-at) {
				return errPage
			}
			v := 0
			for i := range size {
				v |= int(b[i]) << (8 * i)
			}
			if v >= n {
				return errPage
			}
			for i := range int(head >> 1) {
				places[at+i] = int32(v)
			}
			at += int(head >> 1)
			b = b[size:]
			continue
		}
		groups := head >> 1
		if groups > uint64(len(places)+7) || len(b) < int(groups)*width {
			return errPage
		}
		out := places[at:min(at+int(groups)*8, len(places))]
		from, mask, most := pad[len(pad)-Padding-len(b):], uint64(1)<<width-1, uint64(0)
		for i, bit := 0, 0; i < len(out); i, bit = i+1, bit+width {
			v := binary.LittleEndian.Uint64(from[bit>>3:]) >> (bit & 7) & mask
			most = max(most, v)
			out[i] = int32(v)
		}
		if most >= uint64(n) {
			return errPage
		}
		at += len(out)
		b = b[int(groups)*width:]
	}
	return nil
}
