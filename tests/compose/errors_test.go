package compose_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"flashsale/docs"
)

// TestProxysProblemsAreTheServices compares what the proxy says itself with the
// service's own pages of errors, which a test of internal/httpapi compares with
// its table.
func TestProxysProblemsAreTheServices(t *testing.T) {
	t.Parallel()
	config := read(t, folder+"/haproxy.cfg")
	seen := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^ *errorfile (\d+) \S*/(\S+)$`).FindAllStringSubmatch(config, -1) {
		status, file := line[1], line[2]
		// HAProxy wants one blank line and no byte more or less than is announced.
		text := read(t, folder+"/errors/"+file)
		response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || !strings.HasSuffix(text, "\n\n"+string(body)) {
			t.Errorf("%s: Content-Length is %d, want that of its body (%v)", file, response.ContentLength, err)
		}
		if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s: Content-Type is %q", file, got)
		}
		if again := response.Header.Get("Retry-After") != ""; again != (response.StatusCode > http.StatusBadGateway) {
			t.Errorf("%s: Retry-After is there: %t", file, again)
		}
		if status[0] != response.Status[0] && status != "501" { // a form of request that HAProxy itself has not
			t.Errorf("%s is answered for %s", file, status)
		}
		checkProblem(t, file, response.StatusCode, body)
		seen[status] = true
	}
	for _, status := range []string{"400", "408", "500", "502", "503", "504"} {
		if !seen[status] {
			t.Errorf("%s is answered in HAProxy's own words", status)
		}
	}
	inline := regexp.MustCompile(`return status (\d+) content-type application/problem\+json string '(.*?)'`).FindAllStringSubmatch(config, -1)
	if len(inline) == 0 {
		t.Error("haproxy.cfg returns no problem any more: this test no longer knows it")
	}
	for _, answer := range inline {
		var status int
		if _, err := fmt.Sscan(answer[1], &status); err != nil {
			t.Fatal(err)
		}
		checkProblem(t, "haproxy.cfg", status, []byte(answer[2]))
	}
}

// checkProblem compares a problem's type, title and status with its page.
func checkProblem(t *testing.T, where string, status int, body []byte) {
	t.Helper()
	var problem struct {
		Type, Title string
		Status      int
	}
	if err := json.Unmarshal(body, &problem); err != nil {
		t.Errorf("%s: %q: %v", where, body, err)
		return
	}
	slug := strings.TrimPrefix(problem.Type, "/errors/")
	page, err := docs.Errors.ReadFile("errors/" + slug + ".md")
	if err != nil {
		t.Errorf("%s: type %q is none of the service's: %v", where, problem.Type, err)
		return
	}
	if want := fmt.Sprintf("# %s\n\n`%s`, status %d\n", problem.Title, slug, status); problem.Status != status || !bytes.HasPrefix(page, []byte(want)) {
		t.Errorf("%s: %s with status %d, want as docs/errors/%s.md", where, body, status, slug)
	}
}
