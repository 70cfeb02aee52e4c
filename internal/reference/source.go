package reference

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// Source is what a package says of itself in comments.
type Source struct {
	Fields map[string]string  // comments of fields, by Type.Field
	Consts map[string][]Const // by the type of their block, empty for those without
	Texts  map[string]string  // constants that are one text, by name
}

// Const is a constant with its comment. One that is no literal has no value.
type Const struct{ Name, Value, Comment string }

// Read reads the package in a directory, without its tests.
func Read(dir string) (*Source, error) {
	s := &Source{Fields: map[string]string{}, Consts: map[string][]Const{}, Texts: map[string]string{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", name, err)
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				s.declare(g)
			}
		}
	}
	return s, nil
}

func (s *Source) declare(g *ast.GenDecl) {
	of := ""
	for _, spec := range g.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if st, ok := spec.Type.(*ast.StructType); ok {
				s.fields(spec.Name.Name, st)
			}
		case *ast.ValueSpec:
			if id, ok := spec.Type.(*ast.Ident); ok {
				of = id.Name
			}
			c := Const{Name: spec.Names[0].Name, Comment: comment(spec.Doc, spec.Comment)}
			if len(spec.Values) == 1 {
				c.Value = s.value(c.Name, spec.Values[0])
			}
			if g.Tok == token.CONST {
				s.Consts[of] = append(s.Consts[of], c)
			}
		}
	}
}

// value is that of a constant which is a literal.
func (s *Source) value(name string, e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		if ok {
			return lit.Value
		}
		return ""
	}
	text, _ := strconv.Unquote(lit.Value) // the parser has seen it
	s.Texts[name] = text
	return text
}

func (s *Source) fields(typ string, st *ast.StructType) {
	for _, f := range st.Fields.List {
		for _, name := range f.Names {
			s.Fields[typ+"."+name.Name] = comment(f.Doc, f.Comment)
		}
	}
}

func comment(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if g != nil {
			return strings.Join(strings.Fields(g.Text()), " ")
		}
	}
	return ""
}

// Key is a key of a file.
type Key struct{ Name, Default, Meaning string }

// defaults begins the last sentence of a comment on a field whose default is no
// value but a rule.
const defaults = ". By default "

// Keys returns the keys of a struct, by the yaml tags of its fields, without
// those of structs that are inline unless they are in inline. v has the defaults.
func (s *Source) Keys(v reflect.Value, within string, inline ...string) (keys []Key, err error) {
	typ := v.Type()
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag := f.Tag.Get("yaml")
		switch tag {
		case "", "-":
			continue
		case ",inline":
			for _, name := range inline {
				if name == f.Name {
					more, err := s.Keys(v.Field(i), within, inline...)
					if err != nil {
						return nil, err
					}
					keys = append(keys, more...)
				}
			}
			continue
		}
		if f.Type.Kind() == reflect.Struct && f.Type.NumField() > 0 && f.Type.Field(0).Tag.Get("yaml") != "" {
			below, err := s.Keys(v.Field(i), within+tag+".")
			if err != nil {
				return nil, err
			}
			keys = append(keys, below...)
			continue
		}
		meaning, rule, _ := strings.Cut(s.Fields[typ.Name()+"."+f.Name], defaults)
		if meaning == "" {
			return nil, fmt.Errorf("field %s.%s has no comment", typ.Name(), f.Name)
		}
		k := Key{within + tag, strings.TrimSuffix(rule, "."), meaning}
		if rule == "" {
			k.Default = shown(v.Field(i))
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// shown is a default as a file would have it; nothing is shown for an empty text.
func shown(v reflect.Value) string {
	text := fmt.Sprint(v.Interface())
	switch {
	case v.Kind() == reflect.Slice:
		var items []string
		for i := range v.Len() {
			items = append(items, strconv.Quote(fmt.Sprint(v.Index(i))))
		}
		text = "[" + strings.Join(items, ", ") + "]"
	case v.Type().String() == "time.Duration":
		text = short(text)
	case v.Kind() == reflect.String && v.Len() == 0: // whatever a secret shows of itself
		return ""
	}
	return "`" + text + "`"
}

// short is a duration as people write it: 5m and not 5m0s.
func short(text string) string {
	for _, zero := range []string{"0s", "0m"} {
		if cut := strings.TrimSuffix(text, zero); cut != "" && strings.ContainsAny(cut[len(cut)-1:], "hm") {
			text = cut
		}
	}
	return text
}
