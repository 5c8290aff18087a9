package pages

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/jobs/serve"
	"tandem/jobs/serve/read"
)

//go:embed static
var embedded embed.FS

type server struct {
	src     Source
	refresh time.Duration
	log     *slog.Logger

	mu    sync.Mutex
	lists map[string]*looks // by tenant
}

// policy lets pages load their own files and talk to their own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Frame says whether a GET of the path gives the frame of a page or one of its files, which hold nothing of anybody, so that a
// browser without a token is shown where to enter one, and who has mistyped an address that there is no such page. "/" is a frame
// only for who does not ask for JSON.
func Frame(path string) bool {
	p := strings.Split(strings.Trim(path, "/"), "/")
	return len(p) == 1 || !slices.Contains([]string{"page", "api", "download.csv", "download.parquet"}, p[1])
}

// New returns the handler of the pages, to be mounted at "/". Whoever mounts it guards the data: all paths that are no Frame,
// and "/" for who asks for JSON. Pages ask again every refresh, 1 s to 10 min.
// What fails is told to log.
func New(src Source, refresh time.Duration, log *slog.Logger) (http.Handler, error) {
	s := &server{src: src, refresh: refresh, log: log, lists: map[string]*looks{}}
	mux := http.NewServeMux()
	shell, err := s.files(mux)
	if err != nil {
		return nil, err
	}
	// The front page's data have its own address, since the first part of every other is a tenant's.
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			s.json(s.tenants)(w, r)
			return
		}
		shell.serve(w, r)
	})
	for _, pattern := range []string{"GET /{tenant}", "GET /{tenant}/{$}", "GET /{tenant}/operations", "GET /{tenant}/explain", "GET /{tenant}/experiment/{experiment}"} {
		mux.HandleFunc(pattern, shell.serve)
	}
	mux.HandleFunc("GET /{tenant}/page/experiments", s.json(s.experiments))
	mux.HandleFunc("GET /{tenant}/page/experiment/{experiment}", s.json(s.experiment))
	mux.HandleFunc("GET /{tenant}/page/operations", s.json(s.operations))
	mux.HandleFunc("GET /{tenant}/page/explain", s.json(s.explain))
	mux.HandleFunc("POST /{tenant}/page/promote", s.json(s.promote))
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			serve.Fail(w, &serve.Problem{Status: http.StatusNotFound, Title: "There is nothing here", Detail: "no such path"})
			return
		}
		shell.write(w, r, http.StatusNotFound)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		mux.ServeHTTP(w, r)
	}), nil
}

// file is an embedded one, compressed once.
type file struct {
	kind, tag   string
	plain, gzip []byte
}

// files mounts the assets and returns the frame of all pages.
func (s *server) files(mux *http.ServeMux) (*file, error) {
	var shell *file
	err := fs.WalkDir(embedded, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := embedded.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		f := &file{kind: mime.TypeByExtension(path.Ext(name)), tag: `"` + hex.EncodeToString(sum[:8]) + `"`, plain: data}
		if f.kind == "" {
			f.kind = "text/plain; charset=utf-8"
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(data); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		f.gzip = b.Bytes()
		if name == "static/index.html" {
			shell = f
			return nil
		}
		mux.HandleFunc("GET /"+name, f.serve)
		return nil
	})
	if err == nil && shell == nil {
		err = errors.New("static/index.html is missing")
	}
	return shell, err
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("ETag", f.tag)
	h.Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	f.write(w, r, http.StatusOK)
}

func (f *file) write(w http.ResponseWriter, r *http.Request, status int) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Add("Vary", "Accept-Encoding")
	data := f.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		data = f.gzip
	}
	w.WriteHeader(status)
	_, _ = w.Write(data) // an error is the client's, who has gone
}

// inTurn calls fn when it is the request's turn.
func inTurn(r *http.Request, fn func(*http.Request) (any, error)) (any, error) {
	q := serve.FromContext(r.Context())
	if q == nil {
		return fn(r)
	}
	done, err := q.Work(r.Context())
	if err != nil {
		return nil, err
	}
	defer done()
	return fn(r)
}

// json answers with what fn returns, or with its error as problem+json (RFC 9457).
func (s *server) json(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		v, err := inTurn(r, fn)
		if err != nil {
			serve.Fail(w, s.problem(r, err))
			return
		}
		data, err := json.Marshal(v)
		if err != nil {
			http.Error(w, fmt.Sprintf("encode: %v", err), http.StatusInternalServerError)
			return
		}
		h.Set("Content-Type", "application/json")
		if len(data) > 1400 && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is a valid one
			_, _ = z.Write(data)                           // an error is the client's, who has gone
			_ = z.Close()
			return
		}
		_, _ = w.Write(data)
	}
}

// problem is an error as serve.Fail answers it. What has failed is for operators; it may name files and hosts.
func (s *server) problem(r *http.Request, err error) error {
	told := func(status int) error {
		return &serve.Problem{Status: status, Title: http.StatusText(status), Detail: err.Error()}
	}
	var refused *serve.Problem
	var limit *read.LimitError
	switch {
	case errors.Is(err, ErrNotFound):
		return told(http.StatusNotFound)
	case errors.Is(err, ErrForbidden):
		return told(http.StatusForbidden)
	case errors.Is(err, ErrRequest):
		return told(http.StatusBadRequest)
	case !errors.As(err, &refused) && !errors.As(err, &limit) && r.Context().Err() == nil:
		s.log.Error("a page's data could not be read", "path", r.URL.Path, "error", err)
	}
	return err
}
