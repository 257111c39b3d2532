package repo

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	kopia "github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/maintenance"

	"cowl/internal/errs"
)

// What new repositories are made with. A repository says of itself what it is
// made with, so that others can be read as well.
const (
	hashAlgorithm = "BLAKE3-256-128" // the fastest of kopia's for 64 KiB on one core
	cipher        = "AES256-GCM-HMAC-SHA256"
)

// Repo is an open repository.
type Repo struct {
	rep   kopia.DirectRepository
	store *proof
	live  string // the key of the store among those that are open
}

// Options is how a repository is opened.
type Options struct {
	// CacheDir is where what was read of a remote store is kept between two
	// runs, and indexes that are too large for memory. "" keeps nothing.
	CacheDir string
	// Reading says that images are to be read. A local store's content would
	// then go through the cache piece by piece, so it gets none.
	Reading bool
	// User and Host are under whose name backups are filed; "" means the
	// process's.
	User, Host string
	// KDF is, of a new repository, how its key comes from the password.
	KDF KDF

	now func() time.Time // nil: the clock
}

// KDF is a function that makes a key of a password. What it costs is paid by
// whoever guesses passwords, and once by every command.
type KDF string

// The functions.
const (
	Scrypt KDF = "scrypt" // the default: each guess needs 64 MiB of memory
	PBKDF2 KDF = "pbkdf2" // less than half the time, and no memory
)

// kopiaKDF are kopia's names for them.
var kopiaKDF = map[KDF]string{"": format.DefaultKeyDerivationAlgorithm, Scrypt: "scrypt-65536-8-1", PBKDF2: "pbkdf2-sha256-600000"}

// Init makes a repository in a store that holds none. Without the password
// nobody can read it, cowl included. The store is closed in any case.
func Init(ctx context.Context, s Store, password string, o Options) error {
	p := newProof(s)
	if err := initialize(ctx, p, password, o); err != nil {
		return errors.Join(err, closeStore(ctx, s))
	}
	r, err := Open(ctx, s, password, o)
	if err != nil {
		return err
	}
	return errors.Join(r.claimMaintenance(ctx), r.Close(ctx))
}

// closeStore closes a store that came to nothing.
func closeStore(ctx context.Context, s Store) error { return s.Close(context.WithoutCancel(ctx)) }

// initialize writes what makes a store a repository.
func initialize(ctx context.Context, p *proof, password string, o Options) error {
	if password == "" {
		return errs.E(errs.Usage, "a repository needs a password")
	}
	err := kopia.Initialize(ctx, p, &kopia.NewRepositoryOptions{
		BlockFormat:                       format.ContentFormat{Hash: hashAlgorithm, Encryption: cipher},
		FormatBlockKeyDerivationAlgorithm: kopiaKDF[o.KDF],
	}, password)
	switch {
	case errors.Is(err, kopia.ErrAlreadyInitialized):
		return errs.E(errs.Exists, "%s holds a repository already", p.name)
	case err != nil:
		return fmt.Errorf("make a repository: %w", explain(ctx, err))
	}
	return (&Repo{store: p}).flushSums(ctx)
}

// claimMaintenance says who runs maintenance, without which the stock kopia
// would ask whoever connects first.
func (r *Repo) claimMaintenance(ctx context.Context) error {
	return r.write(ctx, "set up", func(ctx context.Context, w kopia.DirectRepositoryWriter) error {
		p := maintenance.DefaultParams()
		p.Owner = r.rep.ClientOptions().UsernameAtHost()
		return maintenance.SetParams(ctx, w, &p)
	})
}

// Open opens a repository. The store is closed with it, or at once if it cannot
// be opened. The error is of kind errs.NotFound if there is
// none in the store, of errs.Denied if the password is not its, and of
// errs.Corrupt if what is there cannot be read.
func Open(ctx context.Context, s Store, password string, o Options) (*Repo, error) {
	r, err := open(ctx, s, password, o)
	if err != nil {
		return nil, errors.Join(err, closeStore(ctx, s))
	}
	return r, nil
}

func open(ctx context.Context, s Store, password string, o Options) (*Repo, error) {
	p := newProof(s)
	if _, err := p.GetMetadata(ctx, format.KopiaRepositoryBlobID); err != nil {
		if l, ok := s.Storage.(layoutChecker); ok && isMissing(err) {
			if err := l.CheckLayout(); err != nil {
				return nil, err
			}
		}
		if isMissing(err) {
			return nil, errs.E(errs.NotFound, "there is no repository in %s", s.name())
		}
		return nil, explain(ctx, err)
	}
	r := &Repo{store: p}
	cache, err := cacheFor(ctx, s, p, o)
	if err != nil {
		return nil, err
	}
	r.live = lives.add(p)
	if err := r.connect(ctx, password, cache, o); err != nil {
		lives.drop(r.live)
		return nil, err
	}
	return r, nil
}

// indexesInMemory is how much of indexes a local repository may have and still
// be opened without a cache. A segment takes some 35 bytes of them.
const indexesInMemory = 64 << 20

// cacheFor decides whether kopia is to keep copies. Without a directory it
// holds all indexes in memory, and nothing else.
func cacheFor(ctx context.Context, s Store, p *proof, o Options) (*content.CachingOptions, error) {
	c := &content.CachingOptions{
		CacheDirectory: o.CacheDir, ContentCacheSizeBytes: contentCache, MetadataCacheSizeBytes: metadataCache,
	}
	switch {
	case o.CacheDir == "", !s.Remote && o.Reading:
		return &content.CachingOptions{}, nil
	case s.Remote:
		return c, os.MkdirAll(o.CacheDir, 0o700)
	}
	var size int64
	err := p.ListBlobs(ctx, "x", func(m blob.Metadata) error { size += m.Length; return nil })
	if err != nil || size < indexesInMemory {
		return &content.CachingOptions{}, explain(ctx, err)
	}
	return c, os.MkdirAll(o.CacheDir, 0o700)
}

// What is kept in CacheDir at most.
const (
	contentCache  = 1 << 30
	metadataCache = 256 << 20
)

// connect lets kopia open the repository. Its library opens what a
// configuration file describes; ours describes a store that is open in this
// process, so that no key and no password stand in a file.
func (r *Repo) connect(ctx context.Context, password string, cache *content.CachingOptions, o Options) error {
	if o.User == "" {
		o.User = userName()
	}
	if o.Host == "" {
		o.Host, _ = os.Hostname()
	}
	config := kopia.LocalConfig{
		Storage: &blob.ConnectionInfo{Type: liveType, Config: &liveOptions{Key: r.live}},
		Caching: cache,
		ClientOptions: kopia.ClientOptions{
			Hostname: o.Host, Username: o.User,
			FormatBlobCacheDuration: -1, // a changed password counts at once
		},
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	dir, remove, err := passing()
	if err != nil {
		return err
	}
	defer remove()
	r.store.taken = remove // kopia comes for the store as soon as it has read the file
	name := filepath.Join(dir, "config.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		return err
	}
	rep, err := kopia.Open(ctx, name, password, &kopia.Options{
		DisableRepositoryLog: true,
		DoNotWaitForUpgrade:  true,
		TimeNowFunc:          o.now,
		OnFatalError:         func(error) {}, // kopia's own would end the process
	})
	switch {
	case errors.Is(err, kopia.ErrInvalidPassword):
		return errs.E(errs.Denied, "%s: wrong password", r.store.DisplayName())
	case err != nil:
		return fmt.Errorf("open repository %s: %w", r.store.DisplayName(), r.damage(ctx, err))
	}
	direct, ok := rep.(kopia.DirectRepository)
	if !ok {
		return errs.E(errs.Unsupported, "%s is no repository of blobs", r.store.DisplayName())
	}
	r.rep = direct
	return nil
}

// userName is the process's user, in what kopia allows in a source.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username[strings.LastIndexByte(u.Username, '\\')+1:]
	}
	return strconv.Itoa(os.Getuid())
}

// passing makes a directory for a file that kopia's library wants to have, and
// returns what removes it, which is done as early as can be: a process that is
// killed leaves what it has there at that moment. remove may be called again.
func passing() (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp("", "cowl-repo-")
	return dir, func() { os.RemoveAll(dir) }, err
}

// Close ends the use of the repository, and closes the store.
func (r *Repo) Close(ctx context.Context) error {
	defer lives.drop(r.live)
	return explain(ctx, r.rep.Close(ctx))
}

// ID is what the repository has that no other has, in hexadecimal.
func (r *Repo) ID() string { return hex.EncodeToString(r.rep.UniqueID()) }

// Name says where the repository is.
func (r *Repo) Name() string { return r.store.DisplayName() }

// Written returns how many bytes were put into the store since it was opened.
func (r *Repo) Written() int64 { return r.store.written.Load() }

// write runs f in a session of its own, and commits what it wrote.
func (r *Repo) write(ctx context.Context, purpose string, f func(context.Context, kopia.DirectRepositoryWriter) error) error {
	err := kopia.DirectWriteSession(ctx, r.rep, kopia.WriteSessionOptions{Purpose: "cowl " + purpose}, f)
	if err != nil {
		return explain(ctx, err)
	}
	return r.flushSums(ctx)
}

func (s *Store) name() string { return cmp.Or(s.Name, s.DisplayName()) }

func newProof(s Store) *proof {
	return &proof{st: s.Storage, name: s.name(), confirms: s.Confirms, sums: newLedger()}
}

// liveType is the type of storage by which kopia's library comes to a store
// that is open in this process.
const liveType = "cowl"

type liveOptions struct {
	Key string `json:"key"`
}

// lives are the stores that are open.
var lives liveStores

type liveStores struct {
	last   atomic.Int64
	stores sync.Map // by key
}

func (l *liveStores) add(p *proof) string {
	key := strconv.FormatInt(l.last.Add(1), 10)
	l.stores.Store(key, p)
	return key
}

func (l *liveStores) drop(key string) { l.stores.Delete(key) }

func init() { // kopia knows types of storage by registration only
	blob.AddSupportedStorage(liveType, liveOptions{}, func(_ context.Context, o *liveOptions, _ bool) (blob.Storage, error) {
		p, ok := lives.stores.Load(o.Key)
		if !ok {
			return nil, errs.E(errs.NotFound, "no store %q is open in this process", o.Key)
		}
		if taken := p.(*proof).taken; taken != nil {
			taken()
		}
		return p.(*proof), nil
	})
}
