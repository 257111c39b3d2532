package report

import (
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
)

// pet is a row that knows nothing of volumes: what LVM's reports do with it is
// judged by lvm itself, in package cli; here it is what lvm cannot show.
type pet struct {
	name  string
	toys  []string
	age   float64 // -1: unknown
	bytes float64
	fed   float64 // percent, -1: unknown
	born  int64
	loud  int // -1: unknown
}

const typePet, typeHome = 1, 2

func pets() *Catalog[pet] {
	known := func(n float64, text string) Value {
		if n < 0 {
			return Undefined("")
		}
		return Num(n, text)
	}
	return NewCatalog(
		&Section[pet]{Title: "Pet Fields", All: "pet_all", Type: typePet, Fields: []*Field[pet]{
			{Name: "pet_name", Heading: "Name", Help: "What it is called.", Get: func(p pet) Value { return Str(p.name) }},
			{Name: "pet_toys", Heading: "Toys", Kind: List, Help: "What it has.", Get: func(p pet) Value { return Strs(p.toys) }},
			{Name: "pet_age", Heading: "Age", Kind: Number, Help: "In years.", Get: func(p pet) Value { return known(p.age, strings.Repeat("|", int(max(0, p.age)))) }},
			{Name: "pet_size", Heading: "Size", Kind: Size, Help: "In bytes.", Get: func(p pet) Value { return Num(p.bytes, "x") }},
			{Name: "pet_fed", Heading: "Fed%", Width: 6, Kind: Percent, Help: "How full.", Get: func(p pet) Value { return known(p.fed, "%") }},
			{Name: "pet_born", Heading: "Born", Kind: Time, Help: "When.", Get: func(p pet) Value { return Num(float64(p.born), time.Unix(p.born, 0).UTC().Format(time.DateTime)) }},
		}},
		&Section[pet]{Title: "Home Fields", All: "home_all", Type: typeHome, Fields: []*Field[pet]{
			{Name: "home_loud", Heading: "Loud", Width: 8, Kind: Number, Flag: "loud", Help: "Whether one hears it.", Get: func(p pet) Value {
				if p.loud < 0 {
					return Undefined("")
				}
				return Flag(p.loud == 1)
			}},
		}},
	)
}

var zoo = []pet{
	{name: "rex", toys: []string{"ball", "bone"}, age: 3, bytes: 8 << 20, fed: 99.99, born: 1700000000, loud: 1},
	{name: "tom", age: 11, bytes: 4 << 20, fed: 0, born: 1710000000, loud: 0},
	{name: "ada", toys: []string{"ball"}, age: -1, bytes: 1 << 40, fed: -1, born: 1720000000, loud: -1},
}

var now = time.Date(2024, 7, 3, 12, 0, 0, 0, time.UTC) // the day on which ada was born

func show(t *testing.T, q Query, f Format) string {
	t.Helper()
	if q.Defaults == "" {
		q.Defaults = "pet_name"
	}
	q.Prefix, q.Now = "pet_", now
	r, err := pets().Parse(q)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	var b strings.Builder
	if err := r.Print(&b, zoo, f); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestSelections(t *testing.T) {
	for selection, want := range map[string]string{
		"age>3": "tom", "age>=3": "rex tom", "age=-1": "ada", "age!=unknown": "rex tom", "age<100": "rex tom", "age>-1": "", "age=3": "rex",
		"size>1g": "ada", "size=4": "tom", "size=4096k": "tom", "size<=8M": "rex tom", "pet_size=1t": "ada", "size=16384s": "rex", "size=8388608b": "rex",
		"fed=0": "tom", "fed=99.99%": "rex", "fed>99": "rex", "fed>=0": "rex tom", "fed!=0%": "rex",
		"toys=ball": "rex ada", "toys={ball}": "rex ada", "toys=[ball]": "ada", "toys=[bone,ball]": "rex", "toys={bone||stick}": "rex",
		"toys=[ball||bone]": "rex ada", "toys={}": "tom", "toys!={ball,bone}": "tom ada", `toys=""`: "tom", "toys=[]": "tom",
		"home_loud=loud": "rex", "homeloud=1": "rex", "home_loud=no": "tom", "home_loud=0": "tom", "home_loud=unknown": "ada", "home_loud=-1": "ada",
		"name=~'^.o'": "tom", "name!~o": "rex ada", "name!=tom && (age=3 || size=1t)": "rex ada", "!(name=tom || name=rex)": "ada", "NAME=rex": "rex",
		"name=rex || name=tom && age=99": "rex", "(name=rex || name=tom) && age=11": "tom", "name = rex # name=ada": "rex ada",
		"born>2024-03": "ada", "born since 2024-03": "tom ada", "born=2023-11-14": "rex", "born=2023": "rex", "born!=2023": "tom ada",
		"born before '2023-11-14 22:13:20'": "", "born until '2023-11-14 22:13:20'": "rex", "born='2023-11-14 22:13'": "rex", "born=@1710000000": "tom",
		"born='2023-11-14 23:13:20 +01:00'": "rex", "born>'1 month ago'": "ada", "born<'16 weeks ago'": "rex tom", "born after yesterday": "ada",
		"born>'1 day 3 hours ago'": "ada", "born=today": "ada", "born>today": "", "born since '5 years ago'": "rex tom ada",
	} {
		out := show(t, Query{Select: selection, Sort: "-age,born"}, Format{NoHeadings: true})
		// In the order of the zoo.
		var got []string
		for _, p := range zoo {
			if strings.Contains(out, p.name) {
				got = append(got, p.name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s selects %q, want %q", selection, got, want)
		}
	}
}

func TestSelectionErrors(t *testing.T) {
	for selection, want := range map[string]string{
		"nme=x":           "Unrecognised selection field: nme",
		"=x":              "Expecting field name",
		"name":            "Unrecognised comparison operator",
		"name=x &&":       "Expecting field name",
		"(name=x":         "right parenthesis expected",
		"!name=x":         "left parenthesis expected",
		"name=x y":        "Selection syntax error at 'y'",
		"name<x":          "can be used only with number, size, time or percent fields",
		"size=~1":         "incompatible comparison type for selection field pet_size",
		"size=4x":         "Selection syntax error at 'x'",
		"age=old":         "Failed to parse numeric value for selection field pet_age",
		"born=soon":       `Unrecognized string in date/time specification at "soon"`,
		"born='1 day'":    "Unrecognized string",
		"born='ago'":      "Unrecognized string",
		"name since 2024": "can be used only with time fields",
		"toys=[a":         "Invalid operator in selection list",
		"toys={a,b||c}":   "Only one type of logical operator",
		`name="x`:         "Missing end quote",
		`name=~"["`:       "failed to create regex matcher",
		strings.Repeat("(", 10000) + "name=x" + strings.Repeat(")", 10000): "nested too deeply",
	} {
		_, err := pets().Parse(Query{Prefix: "pet_", Defaults: "pet_name", Select: selection, Now: now})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q in it", selection, err, want)
		}
	}
}

func TestColumnErrors(t *testing.T) {
	for _, c := range []struct{ lists, sort, want, hint string }{
		{"nme", "", "Unrecognised field: nme", "pet_name"},
		{"+pet_nam", "", "Unrecognised field: pet_nam", "pet_name"},
		{"xxxxxxxxx", "", "Unrecognised field: xxxxxxxxx", "-o help"},
		{"", "foo", "dm_report: Unrecognised field: foo", "-o help"},
		{"", "pet_all", "dm_report: Unrecognised field: pet_all", ""},
		{"+", "", "Invalid options string", ""},
	} {
		q := Query{Prefix: "pet_", Defaults: "pet_name", Sort: c.sort}
		if c.lists != "" {
			q.Lists = []string{c.lists}
		}
		_, err := pets().Parse(q)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(errs.HintOf(err), c.hint) {
			t.Errorf("-o %q -O %q: %v (hint %q)", c.lists, c.sort, err, errs.HintOf(err))
		}
	}
}

func TestTypes(t *testing.T) {
	for _, c := range []struct {
		q    Query
		want uint
	}{
		{Query{Defaults: "pet_name"}, typePet},
		{Query{Defaults: "home_loud"}, typeHome},
		{Query{Defaults: "pet_name", Sort: "home_loud"}, typePet | typeHome},
		{Query{Defaults: "pet_name", Select: "home_loud=1"}, typePet | typeHome},
		{Query{Defaults: "pet_name,home_loud", Lists: []string{"-home_loud"}}, typePet},
		{Query{Defaults: "selected"}, 0},
	} {
		r, err := pets().Parse(c.q)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Types(); got != c.want {
			t.Errorf("%+v needs %b, want %b", c.q, got, c.want)
		}
	}
}

func TestJSONStd(t *testing.T) {
	got := show(t, Query{Lists: []string{"pet_name,pet_toys,pet_fed,home_loud,pet_size"}}, Format{Name: "pet", JSON: JSONStd})
	for _, row := range []string{
		`{"pet_name":"rex", "pet_toys":["ball","bone"], "pet_fed":"%", "home_loud":"loud", "pet_size":"x"},`,
		`{"pet_name":"ada", "pet_toys":["ball"], "pet_fed":null, "home_loud":"unknown", "pet_size":"x"}`,
	} {
		if !strings.Contains(got, row) {
			t.Errorf("no row %s in\n%s", row, got)
		}
	}
}

// TestJSONQuotes: names and paths may hold what JSON has to escape.
func TestJSONQuotes(t *testing.T) {
	for _, text := range []string{`a"b`, `a\b`, "a\nb", "<&>", "\x00", "é"} {
		q := quote(text)
		if strings.ContainsAny(q, "\n\x00") || q[0] != '"' || strings.Contains(q, `\u003c`) {
			t.Errorf("%q is quoted as %s", text, q)
		}
	}
}

func TestHelpListsEverything(t *testing.T) {
	c := pets()
	var fields, selects strings.Builder
	if err := c.WriteHelp(&fields); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSelectHelp(&selects); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(c.Names(), "pet_all") {
		if !strings.Contains(fields.String(), name) {
			t.Errorf("-o help does not mention %s", name)
		}
	}
	if !strings.Contains(selects.String(), "[percent]") || strings.Contains(selects.String(), "pet_all") {
		t.Errorf("-S help:\n%s", selects.String())
	}
}

// FuzzSelection: whatever a person types gives rows or an error.
func FuzzSelection(f *testing.F) {
	for _, s := range []string{"name=rex", "size>1g && (toys={a||b} || !(fed=1%))", "born since '2 weeks ago'", `name=~"["`, "((((", "toys=[a,b", "age=99999999999999999999"} {
		f.Add(s)
	}
	c := pets()
	f.Fuzz(func(t *testing.T, s string) {
		r, err := c.Parse(Query{Prefix: "pet_", Defaults: "pet_name", Select: s, Now: now})
		if err != nil {
			return
		}
		var b strings.Builder
		if err := r.Print(&b, zoo, Format{}); err != nil {
			t.Error(err)
		}
	})
}
