package attack

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// serveVariable makes this test's binary serve as the trivial service of BenchmarkOffer.
const serveVariable = "FLASHSALE_TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		serve()
		return
	}
	os.Exit(withProxyAndCA(m.Run))
}

// BenchmarkOffer measures the rate that the harness can send from one core. The service is
// another process, also on one core, that answers "sold out" at once. One of the benchmarks
// writes each result.
//
//	go test -run=- -bench=Offer -benchtime=1x ./loadtest/attack
//
// Compare offered/s with the rate in the benchmark's name.
func BenchmarkOffer(b *testing.B) {
	url := startService(b)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, bench := range []struct {
		rate    int
		results string
	}{{2000, ""}, {5000, ""}, {5000, ".jsonl"}, {5000, ".bin"}, {5000, ".json"}, {8000, ""}} {
		b.Run(fmt.Sprint(bench.rate, bench.results), func(b *testing.B) {
			plan := Plan{
				Targets: []string{url, url, url}, SKUs: []string{"one"}, MaxQuantity: 1,
				Rate: bench.rate, Duration: 3 * time.Second,
			}
			for b.Loop() {
				cpu := cpuTime(b)
				cfg := Config{Plan: plan, JWTSecret: secret}
				if bench.results != "" {
					file, err := os.Create(filepath.Join(b.TempDir(), "results"+bench.results))
					if err != nil {
						b.Fatal(err)
					}
					defer file.Close()
					cfg.Results = []*Results{NewResults(file.Name(), file)}
				}
				result, err := Run(b.Context(), cfg)
				if err != nil {
					b.Fatal(err)
				}
				for _, r := range cfg.Results {
					if r.Err() != nil {
						b.Fatal(r.Err())
					}
				}
				for _, a := range result.Answers {
					if a.Outcome != SoldOut {
						b.Fatalf("answer %+v", a)
					}
				}
				latencies := LatenciesOf(result.Answers)
				b.ReportMetric(result.AchievedRate(), "offered/s")
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(len(result.Answers)), "cpu-µs/request")
				b.ReportMetric(latencies.Quantile(0.5).Seconds()*1e3, "p50-ms")
				b.ReportMetric(latencies.Quantile(0.99).Seconds()*1e3, "p99-ms")
			}
		})
	}
}

// cpuTime returns the CPU time of this process, which includes signing the tokens.
func cpuTime(tb testing.TB) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func startService(tb testing.TB) string {
	cmd := exec.Command(os.Args[0], "-test.run=-")
	cmd.Env = append(os.Environ(), serveVariable+"=1", "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = stdin.Close() // ends the process
		_ = cmd.Wait()
	})
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	return "http://" + addr[:len(addr)-1]
}

// serve ends when its standard input ends, with the test's process.
func serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	refusal := []byte(`{"type":"/errors/sold-out","title":"Sold out","status":409,"detail":"no units are left"}`)
	server := &http.Server{ReadHeaderTimeout: RequestTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write(refusal)
	})}
	go func() { _ = server.Serve(l) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}
