// Package domainxml points a virtual machine's description, libvirt's domain
// XML, at other images: of a disk whose source is replaced, it changes the disk's
// type, its driver's type and its source, and leaves every other byte of the text as
// it is. It knows nothing of volumes and opens nothing.
package domainxml

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"cowl/internal/errs"
)

// MaxSize bounds what is read as a domain.
const MaxSize = 4 << 20

// maxDepth is how deeply elements may stand in each other.
const maxDepth = 100

// Image is what a disk is to have as its source.
type Image struct {
	Path string
	Type string // as libvirt's driver types: "qcow2", "raw"
}

// Change is one disk that was rewritten.
type Change struct {
	Disk string `json:"disk"` // its name in the guest, vda
	From string `json:"from"`
	To   string `json:"to"`
}

// Result is a domain rewritten.
type Result struct {
	Text    []byte
	Changes []Change
	// Left says what in the text still refers to things that no image was given
	// for, or that could not be rewritten: one sentence each.
	Left []string
}

// Rewrite replaces sources of disks for which image has one. Everything but a
// single domain in well-formed XML of UTF-8, without a document type, is refused.
func Rewrite(text []byte, image func(path string) (Image, bool)) (*Result, error) {
	w, err := read(text, image)
	if err != nil {
		return nil, errs.E(errs.Usage, "domain XML: %w", err)
	}
	r := &Result{Text: apply(text, w.edits), Changes: w.changes, Left: w.left}
	// What was written is read as well: the last word has a parser, not the edits.
	again, err := read(r.Text, func(string) (Image, bool) { return Image{}, false })
	if err != nil || len(again.disks) != len(w.disks) {
		return nil, fmt.Errorf("domain XML cannot be rewritten (%w)", cmp.Or(err, errors.New("it reads otherwise afterwards")))
	}
	return r, nil
}

// edit replaces the bytes [from, to).
type edit struct {
	from, to int
	text     string
}

func apply(text []byte, edits []edit) []byte {
	slices.SortStableFunc(edits, func(a, b edit) int { return a.from - b.from })
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(append(out, text[at:e.from]...), e.text...)
		at = e.to
	}
	return append(out, text[at:]...)
}

// tag is a start tag and where it is.
type tag struct {
	from    int // of the "<"
	nameEnd int
	attrs   []attr
}

// attr is an attribute and where it is: values without their quotes.
type attr struct {
	name               string
	value              string
	nameFrom, nameTo   int
	valueFrom, valueTo int
}

func (t *tag) attr(name string) (attr, bool) {
	if t == nil {
		return attr{}, false
	}
	i := slices.IndexFunc(t.attrs, func(a attr) bool { return a.name == name })
	if i < 0 {
		return attr{}, false
	}
	return t.attrs[i], true
}

func (t *tag) value(name string) string {
	a, _ := t.attr(name)
	return a.value
}

// disk is a disk of the domain, as far as it matters here.
type disk struct {
	tag, driver, source, target *tag
	odd                         string // what makes its source more than a path
}

// walker goes through a domain.
type walker struct {
	text    []byte
	image   func(path string) (Image, bool)
	path    []string // of elements
	disk    *disk    // that is being read
	disks   []*disk
	edits   []edit
	changes []Change
	left    []string
}

// read goes through the text and collects what is to be replaced.
func read(text []byte, image func(string) (Image, bool)) (*walker, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%d bytes are too many", len(text))
	}
	w := &walker{text: text, image: image}
	d := xml.NewDecoder(bytes.NewReader(text))
	roots := 0
	for {
		from := int(d.InputOffset())
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			if roots == 0 {
				return nil, errors.New("there is nothing in it")
			}
			return w, nil
		}
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.Directive:
			return nil, errors.New("it has a document type, which libvirt's have not")
		case xml.CharData:
			if len(w.path) == 0 && strings.Trim(string(t), " \t\r\n\ufeff") != "" {
				return nil, errors.New("there is text outside of it")
			}
			w.characters(string(t))
		case xml.StartElement:
			if len(w.path) == 0 {
				if roots++; roots > 1 || t.Name.Local != "domain" {
					return nil, fmt.Errorf("element %s, where one domain should be (virsh dumpxml prints it)", t.Name.Local)
				}
			}
			if len(w.path) == maxDepth {
				return nil, errors.New("elements stand too deeply in each other")
			}
			if err := w.start(t, from, int(d.InputOffset())); err != nil {
				return nil, err
			}
		case xml.EndElement:
			w.end()
		}
	}
}

// at tells whether the walker is in the element that is so called, from the root.
func (w *walker) at(path ...string) bool { return slices.Equal(w.path, path) }

func (w *walker) start(t xml.StartElement, from, to int) error {
	tg, err := scan(w.text, from, to, t)
	if err != nil {
		return err
	}
	name := t.Name.Local
	if t.Name.Space != "" {
		name = t.Name.Space + " " + name // another's, whatever it is called
	}
	w.path = append(w.path, name)
	inDisk := len(w.path) > 3 && w.disk != nil
	switch {
	case w.at("domain", "devices", "disk"):
		w.disk = &disk{tag: tg}
	case w.at("domain", "devices", "disk", "driver"):
		w.disk.driver = tg
	case w.at("domain", "devices", "disk", "source"):
		if w.disk.source != nil {
			return errors.New("a disk has two sources")
		}
		w.disk.source = tg
		return nil
	case w.at("domain", "devices", "disk", "target"):
		w.disk.target = tg
	case inDisk && (name == "encryption" || name == "slices" || name == "reservations" || name == "mirror"):
		w.disk.odd = name
	case w.at("domain", "devices", "filesystem", "source"):
		w.leave("a file system that is shared with the guest (%s) is not in the backup", anyOf(tg, "dir", "dev", "file", "name"))
	case w.at("domain", "devices", "hostdev"):
		w.leave("a device of the host (%s) is not in the backup", tg.value("type"))
	}
	w.mentions(name, tg)
	return nil
}

func anyOf(t *tag, names ...string) string {
	for _, n := range names {
		if v := t.value(n); v != "" {
			return v
		}
	}
	return "?"
}

// mentions says so where an attribute that is not rewritten names what has a new
// place, as options for qemu may.
func (w *walker) mentions(element string, t *tag) {
	for _, a := range t.attrs {
		for _, part := range strings.FieldsFunc(a.value, func(r rune) bool { return strings.ContainsRune(",=: ", r) }) {
			if _, known := w.image(part); known {
				w.leave("element %s names %s in %s, which is not rewritten", element, part, a.name)
			}
		}
	}
}

// characters looks at the files that a domain has beside its disks.
func (w *walker) characters(text string) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
	case w.at("domain", "os", "nvram"), w.at("domain", "os", "kernel"), w.at("domain", "os", "initrd"), w.at("domain", "os", "dtb"):
		w.leave("%s (%s) is not in the backup", text, w.path[2])
	}
}

func (w *walker) end() {
	if w.at("domain", "devices", "disk") {
		w.disks = append(w.disks, w.disk)
		w.rewrite(w.disk)
		w.disk = nil
	}
	w.path = w.path[:len(w.path)-1]
}

func (w *walker) leave(format string, args ...any) {
	w.left = append(w.left, fmt.Sprintf(format, args...))
}

// rewrite collects the edits of one disk.
func (w *walker) rewrite(d *disk) {
	name := cmp.Or(d.target.value("dev"), "?")
	kind := cmp.Or(d.tag.value("type"), "file")
	if d.source == nil {
		return // an empty drive
	}
	at := map[string]string{"block": "dev", "file": "file"}[kind]
	path, there := d.source.attr(at)
	if at == "" || !there {
		if len(d.source.attrs) > 0 {
			w.leave("disk %s is of type %s (%s), and not rewritten", name, kind, anyOf(d.source, "name", "volume", "dev", "file", "dir"))
		}
		return
	}
	img, known := w.image(path.value)
	device := cmp.Or(d.tag.value("device"), "disk")
	switch {
	case !known:
		w.leave("disk %s is %s, which is not in the backup", name, path.value)
		return
	case device != "disk":
		w.leave("disk %s (%s) is a %s, and not rewritten", name, path.value, device)
		return
	case d.odd != "":
		w.leave("disk %s (%s) has an element %s, and is not rewritten", name, path.value, d.odd)
		return
	case d.driver.value("type") != "raw" && d.driver.value("type") != "":
		w.leave("disk %s (%s) holds an image of type %s itself, and is not rewritten", name, path.value, d.driver.value("type"))
		return
	}
	w.set(d.tag, "type", "file")
	w.edits = append(w.edits, edit{path.nameFrom, path.nameTo, "file"}, edit{path.valueFrom, path.valueTo, escape(img.Path)})
	if d.driver == nil { // without one, libvirt takes any image for a raw one
		w.edits = append(w.edits, edit{d.source.from, d.source.from, "<driver name='qemu' type='" + img.Type + "'/>"})
	} else {
		w.set(d.driver, "type", img.Type)
	}
	w.changes = append(w.changes, Change{Disk: name, From: path.value, To: img.Path})
}

// set gives an attribute a value, or adds it.
func (w *walker) set(t *tag, name, value string) {
	a, there := t.attr(name)
	switch {
	case !there:
		w.edits = append(w.edits, edit{t.nameEnd, t.nameEnd, " " + name + "='" + value + "'"})
	case a.value != value:
		w.edits = append(w.edits, edit{a.valueFrom, a.valueTo, value})
	}
}

// escape writes a value so that it can stand in either kind of quotes.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", `"`, "&quot;",
		"\n", "&#10;", "\r", "&#13;", "\t", "&#9;").Replace(s)
}

// scan finds the attributes of the start tag in text[from:to], which the decoder
// has found well-formed and read as t.
func scan(text []byte, from, to int, t xml.StartElement) (*tag, error) {
	odd := fmt.Errorf("the element %s cannot be read byte by byte", t.Name.Local)
	is := func(i int, set string) bool { return i < to && strings.IndexByte(set, text[i]) >= 0 }
	const space = " \t\r\n"
	if from >= to || text[from] != '<' {
		return nil, odd
	}
	i := from + 1
	for i < to && !is(i, space+"/>") {
		i++
	}
	tg := &tag{from: from, nameEnd: i}
	for {
		for is(i, space) {
			i++
		}
		if i >= to || is(i, "/>") {
			break
		}
		a := attr{nameFrom: i}
		for i < to && !is(i, space+"=") {
			i++
		}
		a.nameTo, a.name = i, string(text[a.nameFrom:i])
		for is(i, space+"=") {
			i++
		}
		if !is(i, `'"`) {
			return nil, odd
		}
		quote := text[i]
		a.valueFrom = i + 1
		for i++; i < to && text[i] != quote; i++ {
		}
		if i >= to {
			return nil, odd
		}
		a.valueTo = i
		i++
		if _, twice := tg.attr(a.name); twice {
			return nil, fmt.Errorf("the element %s has attribute %s twice", t.Name.Local, a.name)
		}
		if len(tg.attrs) >= len(t.Attr) {
			return nil, odd
		}
		a.value = t.Attr[len(tg.attrs)].Value
		tg.attrs = append(tg.attrs, a)
	}
	if len(tg.attrs) != len(t.Attr) {
		return nil, odd
	}
	return tg, nil
}
