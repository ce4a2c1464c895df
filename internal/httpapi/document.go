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

// entry is an operation, as the page shows it.
type entry struct {
	*contract.Operation
	Raw map[string]any // the operation in the contract
}

// docsPage returns the page.
func (a *api) docsPage() ([]byte, error) {
	var links []string
	for _, k := range kinds {
		links = append(links, "<code>"+k.Slug+"</code>", `<a href="/errors/`+k.Slug+`"><code>`+k.Slug+"</code></a>")
	}
	d := &document{Contract: a.contract, linked: strings.NewReplacer(links...)}
	page, err := template.New("docs.html").Funcs(template.FuncMap{
		"text": d.text, "line": d.line, "fields": d.fields, "kind": d.kind, "parameters": d.parameters, "curl": d.curl, "body": d.body,
	}).ParseFS(pageFiles, "pages/docs.html")
	if err != nil {
		return nil, err
	}
	calls := map[string][]entry{} // by tag
	for _, o := range d.Operations {
		raw := d.at(d.at(d.at(d.Document["paths"])[o.Path])[strings.ToLower(o.Method)])
		for _, tag := range elements(raw["tags"]) {
			calls[tag.(string)] = append(calls[tag.(string)], entry{o, raw})
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

// text returns a description's HTML, and line the same without a paragraph around it.
func (d *document) text(markdown any) template.HTML {
	source, _ := markdown.(string)
	var out bytes.Buffer
	d.err = errors.Join(d.err, goldmark.Convert([]byte(source), &out))
	return template.HTML(d.linked.Replace(out.String()))
}

func (d *document) line(markdown any) template.HTML {
	return template.HTML(strings.TrimSuffix(strings.TrimPrefix(string(d.text(markdown)), "<p>"), "</p>\n"))
}

// member is a parameter, or a field of an object.
type member struct {
	Name, In, Example string // only parameters have the last two
	Required          bool
	Schema            any
	About             any // its description
}

// fields returns the fields of an object, in the order in which they are sent: x-order in
// answers; in requests, those that are required first.
func (d *document) fields(schema any) []member {
	object := d.at(schema)
	required := elements(object["required"])
	var all []member
	order := map[string]int{}
	for name, property := range d.at(object["properties"]) {
		place := slices.Index(required, any(name))
		all = append(all, member{Name: name, Required: place >= 0, Schema: property, About: d.at(property)["description"]})
		if place < 0 {
			place = len(required)
		}
		order[name] = place
		if at, ok := property.(map[string]any)["x-order"].(int64); ok {
			order[name] = int(at)
		}
	}
	slices.SortFunc(all, func(a, b member) int {
		return cmp.Or(cmp.Compare(order[a.Name], order[b.Name]), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// parameters returns the parameters of an operation.
func (d *document) parameters(raw any) (all []member) {
	for _, part := range elements(d.at(raw)["parameters"]) {
		p := d.at(part)
		example, _ := p["example"].(string)
		all = append(all, member{p["name"].(string), p["in"].(string), example, p["required"] == true, p["schema"], p["description"]})
	}
	return all
}

// kind returns the type of a schema with its bounds, or a link to its object.
func (d *document) kind(schema any) template.HTML {
	s := d.at(schema)
	var types []string
	for _, name := range elements(s["type"]) {
		types = append(types, name.(string))
	}
	if one, ok := s["type"].(string); ok {
		types = []string{one}
	}
	reference, _ := schema.(map[string]any)["$ref"].(string)
	switch name := reference[strings.LastIndexByte(reference, '/')+1:]; {
	case types[0] == "object" && name != "":
		return template.HTML(fmt.Sprintf(`<a href="#object-%[1]s">%[1]s</a>`, name))
	case types[0] == "array":
		return "list of " + d.kind(s["items"])
	}
	words := []string{strings.Join(types, " or ")}
	if format, ok := s["format"].(string); ok && !strings.HasPrefix(format, "int") {
		words = append(words, format)
	}
	for _, bounds := range []struct{ least, most, unit string }{{"minimum", "maximum", ""}, {"minLength", "maxLength", " characters"}} {
		if most, ok := s[bounds.most]; ok {
			words = append(words, fmt.Sprintf("%s to %s%s", number(s[bounds.least]), number(most), bounds.unit))
		}
	}
	if byDefault, ok := s["default"]; ok {
		words = append(words, "default "+number(byDefault))
	}
	for i, word := range words {
		words[i] = template.HTMLEscapeString(word)
	}
	for i, value := range elements(s["enum"]) {
		words = append(words, strings.Repeat("one of ", max(1-i, 0))+"<code>"+template.HTMLEscapeString(value.(string))+"</code>")
	}
	if pattern, ok := s["pattern"].(string); ok {
		words = append(words, "<code>"+template.HTMLEscapeString(pattern)+"</code>")
	}
	return template.HTML(strings.Join(words, ", "))
}

// number returns a number of the contract as text; a missing one is 0.
func number(value any) string { return fmt.Sprint(cmp.Or(value, any(0))) }

// body returns the schema of a request or an answer, or nil.
func (d *document) body(of any) any {
	for _, content := range d.at(d.at(of)["content"]) {
		if schema := d.at(content)["schema"]; d.at(schema)["type"] == "object" {
			return schema
		}
	}
	return nil
}

// curl returns an example: the required parameters and fields.
func (d *document) curl(c entry) string {
	path := c.Path
	line := "curl"
	if c.Streams() {
		line += " -N"
	}
	if c.Method != http.MethodGet {
		line += " -X " + c.Method
	}
	var headers string
	if c.Scheme != contract.Anyone {
		headers = ` -H "Authorization: Bearer $TOKEN"`
	}
	for _, p := range d.parameters(c.Raw) {
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", p.Example)
		case p.Required:
			headers += fmt.Sprintf(" -H '%s: %s'", p.Name, p.Example)
		}
	}
	line += ` "$URL` + path + `"` + headers
	if c.Body == nil {
		return line
	}
	values := map[string]any{}
	for _, field := range d.fields(d.body(c.Raw["requestBody"])) {
		if s := d.at(field.Schema); field.Required || !c.BodyRequired {
			switch examples := elements(s["examples"]); {
			case len(examples) > 0:
				values[field.Name] = examples[0]
			case s["type"] == "integer":
				values[field.Name] = 1
			default:
				values[field.Name] = "a " + field.Name
			}
		}
	}
	text, err := json.Marshal(values)
	d.err = errors.Join(d.err, err)
	return fmt.Sprintf("%s -H 'Content-Type: application/json' -d '%s'", line, text)
}
