// Package pages lays out the pages of a Parquet column for files that are written a row group at once, and the library's structures in bytes. The
// library's own writers take values one at a time.
package pages

import (
	"context"
	"encoding/binary"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/xitongsys/parquet-go/parquet"

	"tandem/schemas/bitpack"
)

// Compact encodes a structure of the format, as a file has it.
func Compact(v thrift.TStruct) ([]byte, error) {
	s := thrift.NewTSerializer()
	s.Protocol = thrift.NewTCompactProtocolFactoryConf(nil).GetProtocol(s.Transport)
	return s.Write(context.Background(), v)
}

// Begin is where a column of a row group begins: with its dictionary, if it has one.
func Begin(md *parquet.ColumnMetaData) int64 {
	if md.IsSetDictionaryPageOffset() {
		return md.GetDictionaryPageOffset()
	}
	return md.DataPageOffset
}

// AppendText appends a text to a plain page of texts.
func AppendText[T string | []byte](page []byte, text T) []byte {
	return append(binary.LittleEndian.AppendUint32(page, uint32(len(text))), text...)
}

// AppendLevels appends repetition or definition levels, up to most, as a page of values begins with them.
func AppendLevels(page []byte, levels []int32, most int) []byte {
	at := len(page)
	page = append(page, 0, 0, 0) // with the width that follows, which is known of levels, room for the size
	page = bitpack.AppendPlaces(page, levels, most+1)
	binary.LittleEndian.PutUint32(page[at:], uint32(len(page)-at-4))
	return page
}

// AppendDictionary appends a page of n texts to a file: size is how many bytes it has, stored the page as md's codec makes it.
func AppendDictionary(file []byte, md *parquet.ColumnMetaData, n, size int, stored []byte) ([]byte, error) {
	at := int64(len(file))
	md.DictionaryPageOffset = &at
	return appendPage(file, md, size, stored, &parquet.PageHeader{Type: parquet.PageType_DICTIONARY_PAGE,
		DictionaryPageHeader: &parquet.DictionaryPageHeader{NumValues: int32(n), Encoding: parquet.Encoding_PLAIN}})
}

// AppendValues appends the page of all md.NumValues values, with their levels, to a file, as AppendDictionary does.
func AppendValues(file []byte, md *parquet.ColumnMetaData, encoding parquet.Encoding, size int, stored []byte) ([]byte, error) {
	md.DataPageOffset = int64(len(file))
	return appendPage(file, md, size, stored, &parquet.PageHeader{Type: parquet.PageType_DATA_PAGE, DataPageHeader: &parquet.DataPageHeader{NumValues: int32(md.NumValues),
		Encoding: encoding, DefinitionLevelEncoding: parquet.Encoding_RLE, RepetitionLevelEncoding: parquet.Encoding_RLE}})
}

func appendPage(file []byte, md *parquet.ColumnMetaData, size int, stored []byte, header *parquet.PageHeader) ([]byte, error) {
	header.UncompressedPageSize, header.CompressedPageSize = int32(size), int32(len(stored))
	head, err := Compact(header)
	if err != nil {
		return file, err
	}
	md.TotalUncompressedSize += int64(len(head) + size)
	md.TotalCompressedSize += int64(len(head) + len(stored))
	return append(append(file, head...), stored...), nil
}
