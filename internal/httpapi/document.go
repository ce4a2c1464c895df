package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/yuin/goldmark"

	"flashsale/internal/httpapi/contract"
)

// document writes the contract as the page at /docs.
type document struct {
	*contract.Contract
	linked *strings.Replacer // links the slugs of problems to their pages
	err    error             // what is wrong with the contract
}

// docsPage returns the page.
func (a *api) docsPage() ([]byte, error) {
	var links []string
	for _, k := range kinds {
		links = append(links, "<code>"+k.Slug+"</code>", `<a href="/errors/`+k.Slug+`"><code>`+k.Slug+"</code></a>")
	}
	d := &document{Contract: a.contract, linked: strings.NewReplacer(links...)}
	page, err := template.New("docs.html").Funcs(template.FuncMap{
		"text": d.text, "line": d.line, "fields": d.fields, "kind": d.kind, "curl": d.curl, "body": d.body,
	}).ParseFS(pageFiles, "pages/docs.html")
	if err != nil {
		return nil, err
	}
	calls := map[any][]*contract.Operation{} // by tag
	for _, o := range d.Operations {
		for _, tag := range o.Tags {
			calls[tag] = append(calls[tag], o)
		}
	}
	objects := maps.Clone(d.at(d.at(d.Document["components"])["schemas"]))
	maps.DeleteFunc(objects, func(name string, schema any) bool {
		return d.at(schema)["type"] != "object" || strings.HasSuffix(name, "Request") // a request's fields are beside its call
	})
	var out bytes.Buffer
	err = page.Execute(&out, map[string]any{"Info": d.Document["info"], "Tags": d.Document["tags"], "Calls": calls, "Objects": objects})
	return out.Bytes(), errors.Join(err, d.err)
}

// at returns a part of the contract, following references.
func (d *document) at(part any) map[string]any {
	found, err := d.Resolve(part)
	d.err = errors.Join(d.err, err)
	return found
}

func elements(value any) []any {
	all, _ := value.([]any)
	return all
}

// text returns a description's HTML; line returns it without its paragraph.
func (d *document) text(markdown any) template.HTML {
	var out bytes.Buffer
	d.err = errors.Join(d.err, goldmark.Convert([]byte(fmt.Sprint(cmp.Or(markdown, any("")))), &out))
	return template.HTML(d.linked.Replace(out.String()))
}

func (d *document) line(markdown any) template.HTML {
	return template.HTML(strings.TrimSuffix(strings.TrimPrefix(string(d.text(markdown)), "<p>"), "</p>\n"))
}

// fields returns the fields of an object, those that are required first.
func (d *document) fields(schema any) (all []contract.Parameter) {
	object := d.at(schema)
	place := map[string]int{}
	for name, property := range d.at(object["properties"]) {
		place[name] = slices.Index(elements(object["required"]), any(name))
		about, _ := d.at(property)["description"].(string)
		all = append(all, contract.Parameter{Name: name, Required: place[name] >= 0, Schema: property.(map[string]any), Description: about})
	}
	slices.SortFunc(all, func(a, b contract.Parameter) int { // uint: -1 is the last
		return cmp.Or(cmp.Compare(uint(place[a.Name]), uint(place[b.Name])), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// kind returns the type of a schema with its bounds, or a link to its object.
func (d *document) kind(schema map[string]any) template.HTML {
	s := d.at(schema)
	reference, _ := schema["$ref"].(string)
	switch name := path.Base(reference); {
	case s["type"] == "object" && reference != "":
		return template.HTML(fmt.Sprintf(`<a href="#object-%[1]s">%[1]s</a>`, name))
	case s["type"] == "array":
		return "list of " + d.kind(s["items"].(map[string]any))
	}
	words := strings.ReplaceAll(strings.Trim(fmt.Sprint(s["type"]), "[]"), " ", " or ") // of one type, or of a list
	if format, ok := s["format"].(string); ok && !strings.HasPrefix(format, "int") {
		words += ", " + format
	}
	if most, ok := s["maximum"]; ok {
		words += fmt.Sprintf(", %v to %v", s["minimum"], most)
	}
	if most, ok := s["maxLength"]; ok {
		words += fmt.Sprintf(", %v to %v characters", s["minLength"], most)
	}
	if byDefault, ok := s["default"]; ok {
		words += fmt.Sprintf(", default %v", byDefault)
	}
	for i, value := range elements(s["enum"]) {
		words += fmt.Sprintf("%s `%v`", []string{", one of", ","}[min(i, 1)], value)
	}
	if pattern, ok := s["pattern"]; ok {
		words += fmt.Sprintf(", `%v`", pattern)
	}
	return d.line(words)
}

// body returns the schema of an answer with an object, or nil.
func (d *document) body(of any) any {
	for _, content := range d.at(d.at(of)["content"]) {
		if schema := d.at(content)["schema"]; d.at(schema)["type"] == "object" {
			return schema
		}
	}
	return nil
}

// curl returns an example with the required parameters and fields.
func (d *document) curl(o *contract.Operation) string {
	options, to := "", o.Path
	if o.Streams() {
		options += " -N"
	}
	if o.Method != http.MethodGet {
		options += " -X " + o.Method
	}
	if o.Scheme != contract.Anyone {
		options += ` -H "Authorization: Bearer $TOKEN"`
	}
	for _, p := range o.Parameters {
		switch {
		case p.In == "path":
			to = strings.ReplaceAll(to, "{"+p.Name+"}", p.Example)
		case p.In == "query" && p.Required:
			to += "?" + p.Name + "=" + p.Example
		case p.Required:
			options += fmt.Sprintf(" -H '%s: %s'", p.Name, p.Example)
		}
	}
	if o.Body != nil {
		values := map[string]any{}
		for _, field := range d.fields(o.Body.Schema) {
			schema := d.at(field.Schema)
			if examples := elements(schema["examples"]); !field.Required && o.BodyRequired {
				continue
			} else if len(examples) > 0 {
				values[field.Name] = examples[0]
			} else if values[field.Name] = "a " + field.Name; schema["type"] == "integer" {
				values[field.Name] = 1
			}
		}
		text, err := json.Marshal(values)
		d.err = errors.Join(d.err, err)
		options += fmt.Sprintf(" -H 'Content-Type: application/json' -d '%s'", text)
	}
	return fmt.Sprintf(`curl "$URL%s"%s`, to, options)
}
