package blobtest

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Credentials are those of the S3 that S3 starts, by the environment's names.
var Credentials = map[string]string{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}

// S3 starts an S3 in this process, until the test ends, and returns the URL of a folder in a new bucket of it. Requests go through the
// given handler, if it is not nil. The caller sets Credentials.
func S3(t testing.TB, through func(http.Handler) http.Handler) (url string) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	handler := gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	if through != nil {
		handler = through(handler)
	}
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return "s3://bucket/some/prefix?endpoint=" + srv.URL
}
