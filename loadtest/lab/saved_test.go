package lab

import (
	"encoding/json"
	"mime"
	"net/http"
	"regexp"
	"strings"
)

// checkSaved checks the file of a run: it has all that the live page has had, its policy
// allows its own scripts and styles, and it opens no address.
func (t lab) checkSaved(j *journal) {
	t.Helper()
	status, page, header := t.call("GET", "/api/activities/"+j.id+"/page", nil)
	kind, parameters, err := mime.ParseMediaType(header.Get("Content-Disposition"))
	if err != nil || status != http.StatusOK || kind != "attachment" || parameters["filename"] != "race-lab-none-against-etcd-seed-7.html" {
		t.Errorf("%d, %q: %v", status, header.Get("Content-Disposition"), err)
	}
	text := string(page)
	policy := regexp.MustCompile(`Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(text)[1]
	inline := regexp.MustCompile(`(?s)<(script|style)( [^>]*)?>(.*?)</(script|style)>`).FindAllStringSubmatch(text, -1)
	if len(inline) != 4 {
		t.Fatalf("%d scripts and styles", len(inline))
	}
	for _, part := range inline {
		if strings.Contains(part[2], "json") {
			var pairs [][2]json.RawMessage
			if err := json.Unmarshal([]byte(part[3]), &pairs); err != nil {
				t.Fatal(err)
			}
			if len(pairs) != len(j.events) {
				t.Errorf("%d messages, want %d", len(pairs), len(j.events))
			}
			for i := range pairs {
				if want := "event: " + strings.Trim(string(pairs[i][0]), `"`) + "\n"; !strings.Contains(j.text, want) {
					t.Errorf("message %d is %s", i, pairs[i])
				}
			}
		} else if want := strings.ReplaceAll(hash(part[3]), "'", "&#39;"); !strings.Contains(strings.ReplaceAll(policy, "&#43;", "+"), want) {
			t.Errorf("the policy %s lacks %s of %.80q", policy, want, part[3])
		}
	}
	// Comments of licences and the names of XML have addresses, which nothing opens.
	for _, address := range regexp.MustCompile(`(src|href|url|fetch|import|EventSource)\s*[=(]\s*["']?https?:`).FindAllString(text, -1) {
		t.Errorf("the page opens %s", address)
	}
	if strings.Contains(text, "\nimport ") || strings.Contains(text, "\nexport ") {
		t.Error("a module was not joined")
	}
}
