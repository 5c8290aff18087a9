// Package sealed is the JSON object that carries the digest of its own content, so that a flipped byte never passes for
// what was written. Manifests, claims, plans and coverage are such objects: few, small, and read by people too.
package sealed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// An object is one JSON value that holds the content after its digest. Every byte of the object is covered: the
// digest covers the content's bytes as they stand, and what is around them is fixed.
const (
	head  = `{"sha256":"`
	mid   = `","content":`
	tail  = "}\n"
	start = len(head) + 2*sha256.Size + len(mid)
)

// Marshal seals v as JSON.
func Marshal(v any) ([]byte, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s%x%s%s%s", head, sha256.Sum256(content), mid, content, tail), nil
}

// Unmarshal checks the digest, then reads the content into v, and returns the digest in hex. Anything that Marshal did
// not write is an error, a field that v does not have too.
func Unmarshal(data []byte, v any) (digest string, err error) {
	if len(data) < start+len(tail) {
		return "", fmt.Errorf("it has %d bytes, too few", len(data))
	}
	content := data[start : len(data)-len(tail)]
	sum := sha256.Sum256(content)
	digest = hex.EncodeToString(sum[:])
	if !bytes.HasPrefix(data, []byte(head+digest+mid)) || !bytes.HasSuffix(data, []byte(tail)) {
		return "", fmt.Errorf("the SHA-256 of its content, %s, is not the one that it begins with, or it is cut", digest)
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return "", err
	}
	if dec.InputOffset() != int64(len(content)) {
		return "", fmt.Errorf("bytes after the JSON value, at %d", dec.InputOffset())
	}
	return digest, nil
}
