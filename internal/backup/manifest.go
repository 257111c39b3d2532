package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"cowl/internal/backup/repo"
	"cowl/internal/errs"
)

// What a manifest says of itself.
const (
	manifestFormat  = "cowl backup manifest"
	manifestVersion = 1
)

// RangeBytes is how much of an image one entry of Image.Ranges covers.
const RangeBytes = 64 << 20

// maxManifest bounds what is read as a manifest: 16 TiB of image take 18 MB.
const maxManifest = 64 << 20

// Manifest describes an image so that it can be checked and traced without
// the volume it came from. On disk it is indented JSON whose last member,
// "checksum", holds the SHA-256 of every byte before the comma that precedes
// it, so that a manifest vouches for itself also without its .sha256 file.
type Manifest struct {
	Format   string   `json:"format"`
	Version  int      `json:"version"`
	Tool     string   `json:"tool"`
	Image    Image    `json:"image"`
	Source   Source   `json:"source"`
	Snapshot Snapshot `json:"snapshot"`
	// Instant is what the backup shares with those of other volumes, nil of a
	// snapshot that nobody knows to belong to one.
	Instant *Instant `json:"instant,omitempty"`
	// Domain is the file beside it with the description of the virtual machine that
	// it is a disk of, "" without one. It is there once all of its disks are.
	Domain   string    `json:"domain,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"` // when the last byte was read
}

// Image is the file that the manifest stands beside. Sizes are in bytes.
type Image struct {
	File   string `json:"file"` // base name
	Format Format `json:"format"`
	Bytes  int64  `json:"bytes"`
	// DataBytes is what of Bytes is not in blocks of 4 KiB that are all zero.
	DataBytes int64 `json:"data_bytes"`
	// SHA256 is of the whole file, in hexadecimal.
	SHA256 string `json:"sha256"`
	// Ranges has one entry for every RangeBytes of the file, the last of
	// which may be shorter: its SHA-256, or "zero" if it holds only zeroes.
	RangeBytes int64    `json:"range_bytes"`
	Ranges     []string `json:"ranges"`
	// Compression is of an archive, or of the clusters of a qcow2 image.
	Compression Compression `json:"compression,omitempty"`
	// Content is the volume in a qcow2 image, and the archive in a compressed one; nil
	// of what is its own content.
	Content *Content `json:"content,omitempty"`
}

// Content is what an image holds, as of Image's members of the same names.
type Content struct {
	Bytes      int64    `json:"bytes"`
	DataBytes  int64    `json:"data_bytes"`
	SHA256     string   `json:"sha256"`
	RangeBytes int64    `json:"range_bytes"`
	Ranges     []string `json:"ranges"`
}

// Source is the volume that was backed up.
type Source struct {
	VG     string `json:"vg"`
	VGUUID string `json:"vg_uuid"`
	LV     string `json:"lv"`
	LVUUID string `json:"lv_uuid"`
	Bytes  int64  `json:"bytes"`
	// FileSystem is what was recognised in it, "" for nothing.
	FileSystem string `json:"file_system,omitempty"`
	// Fstab has the lines of fstab(5) that mount it, as the machine had them.
	Fstab []string `json:"fstab,omitempty"`
	// Group is the group's metadata when the backup began, for LVM2's
	// vgcfgrestore.
	Group string `json:"group,omitempty"`
}

// Snapshot is the instant that the image shows.
type Snapshot struct {
	LV     string    `json:"lv"`
	LVUUID string    `json:"lv_uuid"`
	Time   time.Time `json:"time"`
	// Own is set when the backup made the snapshot and removed it again.
	Own bool `json:"own"`
}

// Instant ties together the backups of volumes that show one moment.
type Instant = repo.Instant

// formats are those that images may have.
var formats = []Format{Raw, Tar, Qcow2}

// endings are what names of images end in.
var endings = []string{".raw", ".qcow2", ".tar", ".tar.gz", ".tar.zst"}

// packed tells whether the image is an archive that is compressed.
func (i *Image) packed() bool {
	return i.Format == Tar && i.Compression != "" && i.Compression != None
}

// zeroRange stands in Image.Ranges for a range without data.
const zeroRange = "zero"

var (
	hexDigest    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	checksumTail = regexp.MustCompile(`^,\n  "checksum": "sha256:([0-9a-f]{64})"\n}\n$`)
)

// tailLength is the length of what checksumTail matches.
const tailLength = len(",\n  \"checksum\": \"sha256:\"\n}\n") + 2*sha256.Size

// Encode returns the manifest's file.
func (m *Manifest) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	body := bytes.TrimSuffix(text, []byte("\n}"))
	sum := sha256.Sum256(body)
	return append(body, ",\n  \"checksum\": \"sha256:"+hex.EncodeToString(sum[:])+"\"\n}\n"...), nil
}

// DecodeManifest reads what Encode wrote. Any byte that differs gives an
// error of kind errs.Corrupt, a newer version errs.Unsupported.
func DecodeManifest(text []byte) (*Manifest, error) {
	if len(text) < tailLength {
		return nil, errs.E(errs.Corrupt, "%d bytes are too few for a manifest", len(text))
	}
	body, tail := text[:len(text)-tailLength], text[len(text)-tailLength:]
	found := checksumTail.FindSubmatch(tail)
	if found == nil {
		return nil, errs.E(errs.Corrupt, "does not end in a checksum as a manifest does")
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != string(found[1]) {
		return nil, errs.E(errs.Corrupt, "bad checksum (want %s, got %x)", found[1], sum)
	}
	m := new(Manifest)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, errs.E(errs.Corrupt, "not a manifest: %w", err)
	}
	return m, m.Validate()
}

// Validate checks what the checksum cannot: that the fields make sense.
func (m *Manifest) Validate() error {
	i := &m.Image
	switch {
	case m.Format != manifestFormat:
		return errs.E(errs.Corrupt, "format is %q, not %q", m.Format, manifestFormat)
	case m.Version != manifestVersion:
		return errs.E(errs.Unsupported, "version %d, this cowl knows version %d", m.Version, manifestVersion)
	case !slices.Contains(formats, i.Format):
		return errs.E(errs.Unsupported, "image format %q", i.Format)
	case i.Compression != "" && !slices.Contains(compressions[i.Format], i.Compression):
		return errs.E(errs.Unsupported, "format %s compressed by %q", i.Format, i.Compression)
	case (i.Format == Qcow2 || i.packed()) != (i.Content != nil):
		return errs.E(errs.Corrupt, "format %s, and what the image holds is described: %t", i.Format, i.Content != nil)
	case m.Domain != "" && m.Domain != filepath.Base(m.Domain):
		return errs.E(errs.Corrupt, "domain %q is not a plain file name", m.Domain)
	case i.File != filepath.Base(i.File):
		return errs.E(errs.Corrupt, "image name %q is not a plain file name", i.File)
	}
	if i.Content != nil {
		if err := i.Content.validate("content"); err != nil {
			return err
		}
	}
	return (&Content{Bytes: i.Bytes, SHA256: i.SHA256, RangeBytes: i.RangeBytes, Ranges: i.Ranges}).validate("image")
}

// validate checks what is said of the named object.
func (c *Content) validate(object string) error {
	switch {
	case c.Bytes < 0 || c.RangeBytes <= 0:
		return errs.E(errs.Corrupt, "%s of %d bytes in ranges of %d", object, c.Bytes, c.RangeBytes)
	case !hexDigest.MatchString(c.SHA256):
		return errs.E(errs.Corrupt, "%s's SHA-256 is %q", object, c.SHA256)
	case int64(len(c.Ranges)) != rangeCount(c.Bytes, c.RangeBytes):
		return errs.E(errs.Corrupt, "%d range checksums, %d bytes have %d", len(c.Ranges), c.Bytes, rangeCount(c.Bytes, c.RangeBytes))
	}
	for n, r := range c.Ranges {
		if r != zeroRange && !hexDigest.MatchString(r) {
			return errs.E(errs.Corrupt, "range %d: checksum is %q", n, r)
		}
	}
	return nil
}

// rangeCount is how many ranges of the given length cover size bytes.
func rangeCount(size, length int64) int64 {
	n := size / length
	if size%length != 0 {
		n++
	}
	return n
}

// checksums is the file that sha256sum -c reads.
func (m *Manifest) checksums(manifestText []byte) []byte {
	sum := sha256.Sum256(manifestText)
	return []byte(m.Image.SHA256 + "  " + m.Image.File + "\n" +
		hex.EncodeToString(sum[:]) + "  " + m.Image.File + manifestSuffix + "\n")
}

// readManifest reads the manifest of an image. It returns the file's text as
// well, which is what the checksum file vouches for.
func readManifest(image string) (*Manifest, []byte, error) {
	path := image + manifestSuffix
	text, err := readLimited(path, maxManifest)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, errs.E(errs.NotFound, "image %s has no manifest: %w", image, err)
	}
	if err != nil {
		return nil, nil, err
	}
	m, err := DecodeManifest(text)
	if err != nil {
		return nil, nil, errs.E(errs.KindOf(err), "manifest %s: %w", path, err)
	}
	return m, text, nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = errs.E(errs.Corrupt, "%s is larger than %d bytes", path, limit)
	}
	return text, err
}
