// Package s3 is a blob.Store on S3, or on any storage that speaks its protocol and honours If-None-Match.
package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"tandem/schemas/blob"
)

// How long a request may take, and how often it is made. An operation that failed for a reason that may pass is tried
// again after a wait that doubles; a request for n bytes has its patience longer by n / slowest.
const (
	tries     = 5
	firstWait = 100 * time.Millisecond
	patience  = 15 * time.Second
	slowest   = 1 << 20 // bytes a second
)

// Store is a blob.Store in a bucket. It is safe for concurrent use.
//
// An object and a folder of the same name are refused as long as nobody makes both at once: then both stand, each under
// its own name, since the storage has no folders.
type Store struct {
	client   *minio.Client
	bucket   string
	prefix   string // of keys: empty, or with a slash at its end
	patience time.Duration
	wait     time.Duration

	mu sync.Mutex
	// folders are names that are no objects and cannot become one: something is below them. Cleared at maxFolders.
	folders map[string]struct{}
}

const maxFolders = 1 << 14

// Open opens the store that the URL names, as Parse says, and checks that the storage creates what is there only once.
// Credentials come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, else from the file of AWS_PROFILE,
// else, on AWS, from the role of machine or pod.
func Open(url string) (*Store, error) {
	c, err := Parse(url)
	if err != nil {
		return nil, err
	}
	s, err := open(c, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if err := s.probe(); err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return s, nil
}

func open(c Config, transport http.RoundTripper) (*Store, error) {
	client, err := c.client(transport)
	if err != nil {
		return nil, err
	}
	prefix := c.Prefix
	if prefix != "" {
		prefix += "/"
	}
	return &Store{client: client, bucket: c.Bucket, prefix: prefix, patience: patience, wait: firstWait, folders: map[string]struct{}{}}, nil
}

// probeKey is no valid name, so that the object is in no list.
const probeKey = ".tandem/create-only"

// probe makes sure that a second object does not replace a first: everything rests on that.
func (s *Store) probe() error {
	for range 2 {
		err := s.put(probeKey, nil)
		if errors.Is(err, blob.ErrExists) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("create %s%s to see whether the storage is fit: %w", s.prefix, probeKey, err)
		}
	}
	return errors.New("the storage ignores If-None-Match: it replaces objects that are there, so that claims and chains are not safe on it")
}

// Create implements blob.Store. It is one request of the object whole, with If-None-Match: that holds for every size, as
// an upload in parts would not on every storage.
func (s *Store) Create(name string, data []byte) error {
	if err := blob.CheckCreate(name, len(data)); err != nil {
		return err
	}
	if err := s.checkFolders(name); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := s.put(name, data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// tokenKey is the metadata of an object that tells which call of Create made it.
const tokenKey = "Tandem-Create"

func (s *Store) put(name string, data []byte) error {
	token := rand.Text()
	opts := minio.PutObjectOptions{DisableMultipart: true, SendContentMd5: true, DisableContentSha256: true, UserMetadata: map[string]string{tokenKey: token},
		ContentType: "application/octet-stream"}
	opts.SetMatchETagExcept("*")
	unsure := false // a try that failed may have made the object
	return s.try(int64(len(data)), func(ctx context.Context) error {
		_, err := s.client.PutObject(ctx, s.bucket, s.prefix+name, bytes.NewReader(data), int64(len(data)), opts)
		if err == nil {
			return nil
		}
		if status(err) != http.StatusPreconditionFailed {
			unsure = unsure || status(err) == 0 || status(err) >= 500
			return err
		}
		if !unsure {
			return blob.ErrExists
		}
		info, err := s.client.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
		switch {
		case missing(err):
			return errors.New("it was there and is deleted")
		case err != nil:
			return fmt.Errorf("whether an earlier try made it: %w", err)
		case info.UserMetadata[tokenKey] == token:
			return nil
		}
		return blob.ErrExists
	})
}

// checkFolders refuses a name that is a folder, or that has an object as a folder.
func (s *Store) checkFolders(name string) error {
	below := false
	err := s.try(0, func(ctx context.Context) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + name + "/", Recursive: true, MaxKeys: 1}) {
			below = o.Err == nil
			return o.Err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("whether it is a folder: %w", err)
	}
	if below {
		return blob.ErrFolder
	}
	for i := range len(name) {
		if name[i] != '/' || s.isFolder(name[:i]) {
			continue
		}
		_, err := s.stat(name[:i])
		if err == nil {
			return blob.ErrFolder
		}
		if !errors.Is(err, blob.ErrNotFound) {
			return fmt.Errorf("whether %s is an object: %w", name[:i], err)
		}
		s.addFolder(name[:i])
	}
	return nil
}

func (s *Store) isFolder(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.folders[name]
	return ok
}

func (s *Store) addFolder(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.folders) >= maxFolders {
		clear(s.folders)
	}
	s.folders[name] = struct{}{}
}

func (s *Store) stat(name string) (minio.ObjectInfo, error) {
	var info minio.ObjectInfo
	err := s.try(0, func(ctx context.Context) (err error) {
		info, err = s.client.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
		return err
	})
	return info, err
}

// Created implements blob.Store.
func (s *Store) Created(name string) (time.Time, error) {
	if err := blob.CheckName(name); err != nil {
		return time.Time{}, err
	}
	info, err := s.stat(name)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", name, err)
	}
	return info.LastModified, nil
}

// Get implements blob.Store.
func (s *Store) Get(name string) ([]byte, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	info, err := s.stat(name)
	if err == nil {
		err = checkSize(info.Size)
	}
	var data []byte
	if err == nil {
		data, err = s.read(name, info.ETag, 0, info.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

func checkSize(size int64) error {
	if size > blob.MaxObjectBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", blob.ErrTooLarge, size, blob.MaxObjectBytes)
	}
	return nil
}

// read reads n bytes at a place of the object that has this tag.
func (s *Store) read(name, etag string, from, n int64) ([]byte, error) {
	data := make([]byte, n)
	if n == 0 {
		return data, nil
	}
	var opts minio.GetObjectOptions
	if err := opts.SetMatchETag(etag); err != nil {
		return nil, err
	}
	if err := opts.SetRange(from, from+n-1); err != nil {
		return nil, err
	}
	core := minio.Core{Client: s.client}
	err := s.try(n, func(ctx context.Context) error {
		body, info, _, err := core.GetObject(ctx, s.bucket, s.prefix+name, opts)
		if status(err) == http.StatusPreconditionFailed {
			return errReplaced
		}
		if err != nil {
			return err
		}
		defer body.Close()
		if info.ETag != etag { // of a storage that does not look at If-Match
			return errReplaced
		}
		if info.Size != n {
			return fmt.Errorf("asked for %d bytes, and %d are sent", n, info.Size)
		}
		_, err = io.ReadFull(body, data)
		return err
	})
	return data, err
}

// errReplaced: the object was deleted, and there is another of its name.
var errReplaced = fmt.Errorf("another object was created in its place: %w", blob.ErrNotFound)

// List implements blob.Store.
func (s *Store) List(prefix string) ([]string, error) {
	if err := blob.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	names := []string{}
	after := ""
	for more := true; more; {
		err := s.try(0, func(ctx context.Context) error {
			// One page at a time, so that each has its own patience and its own tries.
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			page, last, n := []string{}, after, 0
			for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, MaxKeys: pageKeys, StartAfter: after}) {
				if o.Err != nil {
					return o.Err
				}
				if name := strings.TrimPrefix(o.Key, s.prefix); blob.CheckName(name) == nil {
					page = append(page, name)
				}
				last = o.Key
				if n++; n == pageKeys {
					break
				}
			}
			names, after, more = append(names, page...), last, n == pageKeys
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", prefix, err)
		}
	}
	slices.Sort(names)
	return names, nil
}

const pageKeys = 1000

// Delete implements blob.Store.
func (s *Store) Delete(name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	err := s.try(0, func(ctx context.Context) error {
		return s.client.RemoveObject(ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{})
	})
	if err != nil && !errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// try makes a request for n bytes, again if what it failed for may pass.
func (s *Store) try(n int64, request func(ctx context.Context) error) error {
	wait := s.wait
	for left := tries; ; {
		ctx, cancel := context.WithTimeout(context.Background(), s.patience+time.Duration(n)*time.Second/slowest)
		err := request(ctx)
		cancel()
		left--
		switch {
		case err == nil, errors.Is(err, blob.ErrExists), errors.Is(err, blob.ErrNotFound):
			return err
		case missing(err):
			return blob.ErrNotFound
		case !passing(err):
			return err
		case left == 0:
			return fmt.Errorf("%d tries: %w", tries, err)
		}
		time.Sleep(wait)
		wait *= 2
	}
}

// status is the HTTP status of an error, 0 where there was no answer.
func status(err error) int {
	var e minio.ErrorResponse
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

func missing(err error) bool {
	var e minio.ErrorResponse
	return errors.As(err, &e) && e.Code == minio.NoSuchKey
}

// passing says whether an error may not be there at another time. 409: others are at work on the same name right now.
func passing(err error) bool {
	switch code := status(err); code {
	case 0, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return true
	default:
		return code >= 500
	}
}
