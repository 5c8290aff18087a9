package serve

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
)

// Roles of a token.
const (
	RoleRead  = "read"
	RoleAdmin = "admin"
)

// Identity is who a request is from.
type Identity struct {
	Name    string
	Tenants []string // "*" is all
	Role    string
}

// may says whether the tenant's things are there for it.
func (i *Identity) may(tenant string) bool {
	return slices.Contains(i.Tenants, "*") || slices.Contains(i.Tenants, tenant)
}

// Token is an entry of the tokens file.
type Token struct {
	Name    string    `yaml:"name"`    // for logs; unique
	SHA256  string    `yaml:"sha256"`  // of the token, in hex
	Tenants []string  `yaml:"tenants"` // names, or "*"
	Role    string    `yaml:"role"`    // read or admin
	Expires time.Time `yaml:"expires"` // RFC 3339; required, so that none is forgotten
}

// Tokens are those of a file. It is immutable.
type Tokens struct {
	all    []Token
	hashes [][]byte
}

// maxTokens bounds a tokens file: each request is compared with all of it.
const (
	maxTokens     = 1_000
	maxTokensFile = 1 << 20
	tokenPrefix   = "tandem_"
)

// ReadTokens reads a tokens file. Errors name it, and the line or the token.
func ReadTokens(file string) (*Tokens, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o002 != 0 {
		return nil, fmt.Errorf("%s decides who may read, and everyone can write it (mode %04o); chmod o-w %s", file, mode, file)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTokensFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxTokensFile {
		return nil, fmt.Errorf("%s: more than %d bytes", file, maxTokensFile)
	}
	t, err := ParseTokens(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// ParseTokens reads the text of a tokens file: a list under `tokens`.
func ParseTokens(data []byte) (*Tokens, error) {
	type tokens struct { // of a name that errors may tell
		Tokens []Token `yaml:"tokens"`
	}
	var file tokens
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, cmp.Or(untimely(data), err)
	}
	if len(file.Tokens) > maxTokens {
		return nil, fmt.Errorf("%d tokens, more than %d", len(file.Tokens), maxTokens)
	}
	t := &Tokens{all: file.Tokens}
	names := map[string]bool{}
	for i, one := range file.Tokens {
		hash, err := hex.DecodeString(one.SHA256)
		switch {
		case one.Name == "" || names[one.Name]:
			return nil, fmt.Errorf("token %d: the name %q is empty or taken", i+1, one.Name)
		case err != nil || len(hash) != sha256.Size:
			return nil, fmt.Errorf("token %q: sha256 is not 64 hex digits; tandem token new prints a whole entry", one.Name)
		case len(one.Tenants) == 0:
			return nil, fmt.Errorf(`token %q: it names no tenants; "*" is all`, one.Name)
		case one.Role != RoleRead && one.Role != RoleAdmin:
			return nil, fmt.Errorf("token %q: role %q is neither read nor admin", one.Name, one.Role)
		case one.Expires.IsZero():
			return nil, fmt.Errorf("token %q: no expires", one.Name)
		}
		names[one.Name] = true
		t.hashes = append(t.hashes, hash)
	}
	return t, nil
}

// untimely finds the first token whose expires is no time: of that the YAML reader does not say the line.
func untimely(data []byte) error {
	var file struct {
		Tokens []struct {
			Name    string
			Expires yaml.Node
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil // more is wrong, and the reader has told it
	}
	for _, one := range file.Tokens {
		if at := (time.Time{}); one.Expires.Kind == yaml.ScalarNode && one.Expires.Decode(&at) != nil {
			return fmt.Errorf("line %d: token %q: expires %q is not a time as 2027-01-31T00:00:00Z", one.Expires.Line, one.Name, one.Expires.Value)
		}
	}
	return nil
}

// find returns who has the token, nil if nobody or no longer. Its time does not tell how much of a token is right: hashes
// are compared, all of them, each whole.
func (t *Tokens) find(token string, now time.Time) *Identity {
	sum := sha256.Sum256([]byte(token))
	at := -1
	for i, h := range t.hashes {
		if subtle.ConstantTimeCompare(h, sum[:]) == 1 {
			at = i
		}
	}
	if at < 0 || !now.Before(t.all[at].Expires) {
		return nil
	}
	one := &t.all[at]
	return &Identity{Name: one.Name, Tenants: one.Tenants, Role: one.Role}
}

// NewToken makes a token, and the entry of the tokens file for it.
func NewToken(name string, tenants []string, role string, expires time.Time) (token, entry string, err error) {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(token))
	one := Token{Name: name, SHA256: hex.EncodeToString(sum[:]), Tenants: tenants, Role: role, Expires: expires.UTC().Truncate(time.Second)}
	data, err := yaml.Marshal(map[string][]Token{"tokens": {one}})
	if err == nil {
		_, err = ParseTokens(data)
	}
	return token, strings.TrimPrefix(string(data), "tokens:\n"), err
}

// tokenCookie is where a browser keeps a token that a person has pasted in.
const tokenCookie = "tandem_token"

// identify says who a request is from.
func (s *server) identify(r *http.Request) (*Identity, error) {
	if s.Tokens == nil {
		return &Identity{Name: "local", Tenants: []string{"*"}, Role: RoleAdmin}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		if _, pass, basic := r.BasicAuth(); basic {
			token, ok = pass, true // Grafana's and browsers' way
		} else if c, err := r.Cookie(tokenCookie); err == nil {
			token, ok = c.Value, true
		}
	}
	if ok {
		if who := s.Tokens().find(token, s.Now()); who != nil {
			return who, nil
		}
	}
	return nil, &Problem{Status: http.StatusUnauthorized, Title: "A token is needed", Detail: "none was sent, or one that is unknown or has expired; send it as Authorization: Bearer TOKEN"}
}

// AuditLog is a log of what admins did, a JSON object a line.
type AuditLog struct {
	mu sync.Mutex
	w  io.Writer
}

// NewAuditLog writes to w, which is synced where it can be.
func NewAuditLog(w io.Writer) *AuditLog { return &AuditLog{w: w} }

// Act is a line of the audit log.
type Act struct {
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	From   string    `json:"from"` // address
	Tenant string    `json:"tenant,omitempty"`
	Act    string    `json:"act"`
	Detail string    `json:"detail,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// Note writes an act. It is written before the act happens (Error empty) and, if it failed, once more.
func (a *AuditLog) Note(act Act) error {
	line, err := json.Marshal(act)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if f, ok := a.w.(interface{ Sync() error }); ok {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	return nil
}
