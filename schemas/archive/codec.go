package archive

import (
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/klauspost/compress/zstd"
)

// pooledZstd is the library's zstd with one encoder for all pages: its own makes a new one for each, which took as long
// as everything else of writing a file.
type pooledZstd struct {
	compress.Codec
	enc *zstd.Encoder // EncodeAll may be called from any number of goroutines
}

// EncodeLevel compresses a page. The level is always compressionLevel, the only one that Write asks for.
func (p pooledZstd) EncodeLevel(dst, src []byte, _ int) []byte { return p.enc.EncodeAll(src, dst[:0]) }

// The library takes codecs by registration, from an init function: its map is not guarded.
func init() {
	enc, err := zstd.NewWriter(nil, zstd.WithZeroFrames(true), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(compressionLevel)))
	if err != nil {
		panic("BUG: zstd refuses the options of event files: " + err.Error())
	}
	theirs, err := compress.GetCodec(compress.Codecs.Zstd)
	if err != nil {
		panic("BUG: the Parquet library has no zstd: " + err.Error())
	}
	compress.RegisterCodec(compress.Codecs.Zstd, pooledZstd{theirs, enc})
}
