package pages

import (
	"bytes"
	"compress/gzip"
	"context"
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
	"strings"
	"sync"
	"time"

	"tandem/jobs/serve"
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
// browser without a token is shown where to enter one. "/" is a frame only for who does not ask for JSON.
func Frame(path string) bool {
	p := strings.Split(strings.Trim(path, "/"), "/")
	switch len(p) {
	case 1:
		return true
	case 2:
		return p[0] == "static" || p[1] == "operations" || p[1] == "explain"
	case 3:
		return p[1] == "experiment"
	}
	return false
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
	for _, pattern := range []string{"GET /{tenant}", "GET /{tenant}/operations", "GET /{tenant}/explain", "GET /{tenant}/experiment/{experiment}"} {
		mux.HandleFunc(pattern, shell.serve)
	}
	mux.HandleFunc("GET /{tenant}/page/experiments", s.json(s.experiments))
	mux.HandleFunc("GET /{tenant}/page/experiment/{experiment}", s.json(s.experiment))
	mux.HandleFunc("GET /{tenant}/page/operations", s.json(s.operations))
	mux.HandleFunc("GET /{tenant}/page/explain", s.json(s.explain))
	mux.HandleFunc("POST /{tenant}/page/promote", s.json(s.promote))
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
	h.Set("Content-Type", f.kind)
	h.Set("ETag", f.tag)
	h.Set("Cache-Control", "no-cache")
	h.Add("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	data := f.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		data = f.gzip
	}
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
		var refused *serve.Problem
		if errors.As(err, &refused) {
			serve.Fail(w, refused)
			return
		}
		status, kind := http.StatusOK, "application/json"
		if err != nil {
			kind = "application/problem+json"
			switch {
			case errors.Is(err, ErrNotFound):
				status = http.StatusNotFound
			case errors.Is(err, ErrForbidden):
				status = http.StatusForbidden
			case errors.Is(err, ErrRequest):
				status = http.StatusBadRequest
			case errors.Is(err, context.DeadlineExceeded):
				status = http.StatusServiceUnavailable
			default:
				status = http.StatusInternalServerError
			}
			detail := err.Error()
			if status >= http.StatusInternalServerError && r.Context().Err() == nil {
				// What has failed is for operators; it may name files and hosts.
				s.log.Error("a page's data could not be read", "path", r.URL.Path, "error", err)
				detail = "The data could not be read; the service's log says why."
			}
			v = map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail}
		}
		data, err := json.Marshal(v)
		if err != nil {
			http.Error(w, fmt.Sprintf("encode: %v", err), http.StatusInternalServerError)
			return
		}
		h.Set("Content-Type", kind)
		if len(data) > 1400 && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			w.WriteHeader(status)
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is a valid one
			_, _ = z.Write(data)                           // an error is the client's, who has gone
			_ = z.Close()
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write(data)
	}
}
