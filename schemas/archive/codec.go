package archive

import (
	"sync"

	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/klauspost/compress/zstd"
)

// compressor is shared by all files. It is at the fastest level: on beacons its files are as small as those of the default
// one. The window comes first: the level would else make two blocks of a page.
var compressor = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithWindowSize(pageBytes), zstd.WithZeroFrames(true), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
})

// inflater is shared too. It takes no page that says it is larger than any that is written.
var inflater = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRaw))
})

// pooledZstd is the library's zstd with one encoder for all pages: its own makes a new one for each, which took as long
// as everything else of writing a file. The library compresses dictionaries itself, and nothing else.
type pooledZstd struct {
	compress.Codec
	enc *zstd.Encoder
}

// EncodeLevel compresses a page. The level is the encoder's.
func (p pooledZstd) EncodeLevel(dst, src []byte, _ int) []byte { return p.enc.EncodeAll(src, dst[:0]) }

// The library takes codecs by registration, from an init function: its map is not guarded.
func init() {
	enc, err := compressor()
	if err != nil {
		panic("BUG: zstd refuses the options of event files: " + err.Error())
	}
	theirs, err := compress.GetCodec(compress.Codecs.Zstd)
	if err != nil {
		panic("BUG: the Parquet library has no zstd: " + err.Error())
	}
	compress.RegisterCodec(compress.Codecs.Zstd, pooledZstd{theirs, enc})
}
