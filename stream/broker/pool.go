package broker

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// pools are the memory that a feed decompresses and decodes batches into, which comes back when every record of a batch
// was recycled. Pieces are of sizes of two to the power of n, so that a batch holds less than twice what it needs: what
// waits in a queue is counted by its records. What is not in use the collector frees. Safe for concurrent use.
type pools struct {
	bytes   [maxBytesClass + 1]sync.Pool // of *[]byte, by the power of two of their capacity
	records [maxRecordsClass + 1]sync.Pool
}

// Batches beyond these limits, and those of few records, are decoded into memory of their own.
const (
	minBytesClass, maxBytesClass     = 12, 23 // 4 KiB to 8 MiB, twice MaxMessage
	minRecordsClass, maxRecordsClass = 4, 14
)

// xerial begins a batch that the Java client compressed by snappy: blocks, whose sizes are not known at its head.
var xerial = []byte{130, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

// GetDecompressBytes returns memory for a batch that says how large it is, which is snappy's; none for others.
func (p *pools) GetDecompressBytes(compressed []byte, codec kgo.CompressionCodecType) []byte {
	if codec != kgo.CodecSnappy || bytes.HasPrefix(compressed, xerial) {
		return nil
	}
	n, k := binary.Uvarint(compressed)
	if k <= 0 || n == 0 || n > 1<<maxBytesClass {
		return nil
	}
	c := bits.Len64(n - 1)
	if c < minBytesClass {
		return nil
	}
	if b, ok := p.bytes[c].Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 1<<c)
}

// PutDecompressBytes takes memory back.
func (p *pools) PutDecompressBytes(b []byte) {
	if c := bits.Len(uint(cap(b))) - 1; c >= minBytesClass && c <= maxBytesClass && cap(b) == 1<<c {
		p.bytes[c].Put(&b)
	}
}

// GetRecords returns memory for n records.
func (p *pools) GetRecords(n int) []kgo.Record {
	c := bits.Len(uint(max(n, 1) - 1))
	if c < minRecordsClass || c > maxRecordsClass {
		return nil
	}
	if r, ok := p.records[c].Get().(*[]kgo.Record); ok {
		return *r
	}
	return make([]kgo.Record, 1<<c)
}

// PutRecords takes memory back.
func (p *pools) PutRecords(r []kgo.Record) {
	if c := bits.Len(uint(cap(r))) - 1; c >= minRecordsClass && c <= maxRecordsClass && cap(r) == 1<<c {
		p.records[c].Put(&r)
	}
}

// Recycle gives back the memory of records that a Feed has read, once nothing refers to their keys, values and headers
// any more: they are overwritten. Records that are not recycled cost the collector's time and nothing else.
func Recycle(recs []Record) {
	for i := range recs {
		if k := recs[i].fetched; k != nil {
			recs[i] = Record{}
			k.Recycle()
		}
	}
}
