package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// webMain is the command web of the scripts: a client over HTTP, with a token,
// of the daemon that the log in the state directory tells of last.
//
//	web FILE [TOOL ARGUMENTS]...          calls tools, as mcp does
//	web -bridge FILE [TOOL ARGUMENTS]...  calls them through agentlab mcp --server
//	web -files FILE                       moves a file to the last sandbox and back by URLs
//	web -get FILE STATUS                  gets what the URL in FILE leads to, without a token
//	web -link FILE TOOL PATH OUT          writes the URL of a file in the last sandbox to OUT
//	web -cut FILE PROGRAM...              runs a program while the file is got that the URL in FILE leads to
//	web -cutput FILE PROGRAM...           runs a program while a file is put there
//
// FILE has the token, or the URL.
func webMain() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	switch args := os.Args[1:]; args[0] {
	case "-bridge":
		err = asBridgedClient(ctx, args[1], args[2:])
	case "-files":
		err = asWebClient(ctx, args[1:], webFiles)
	case "-link":
		err = asWebClient(ctx, args[1:], webLink)
	case "-cut":
		err = cutDownload(ctx, args[1], args[2:])
	case "-cutput":
		err = cutUpload(ctx, args[1], args[2:])
	case "-get":
		err = webGet(ctx, args[1], args[2])
	default:
		err = asWebClient(ctx, args, webCalls)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bearing adds a token to each request.
type bearing string

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func asWebClient(ctx context.Context, args []string, do func(context.Context, *mcp.ClientSession, []string) error) error {
	token, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	url, err := webURL()
	if err != nil {
		return err
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "script", Version: "1"}, nil)
	s, err := client.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint:   url,
		HTTPClient: &http.Client{Transport: bearing(strings.TrimSpace(string(token)))},
	}, nil)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, s, args[1:]), s.Close())
}

func asBridgedClient(ctx context.Context, token string, args []string) error {
	url, err := webURL()
	if err != nil {
		return err
	}
	s, err := connect(ctx, "--server", url, "--token-file", token)
	if err != nil {
		return err
	}
	return errors.Join(webCalls(ctx, s.ClientSession, args), s.Close())
}

// webURL is where the daemon listens, as its log says last.
func webURL() (string, error) {
	log, err := os.ReadFile(os.Getenv("XDG_STATE_HOME") + "/agentlab/agentlab.log")
	if err != nil {
		return "", err
	}
	all := regexp.MustCompile(`url=(http://\S+/mcp)`).FindAllSubmatch(log, -1)
	if len(all) == 0 {
		return "", fmt.Errorf("nobody listens over HTTP:\n%s", log)
	}
	return string(all[len(all)-1][1]), nil
}

func webCalls(ctx context.Context, s *mcp.ClientSession, args []string) error {
	var out strings.Builder
	for i := 0; i+1 < len(args); i += 2 {
		if err := call(ctx, s, args[i], args[i+1], &out); err != nil {
			return err
		}
	}
	fmt.Print(out.String())
	return nil
}

// webFiles sends a file in two parts, with an interruption, and reads it back
// as a whole and in part. The URLs stay in files for the script.
func webFiles(ctx context.Context, s *mcp.ClientSession, _ []string) error {
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content) // never fails
	up, err := fileURL(ctx, s, "upload_url", "moved")
	if err != nil {
		return err
	}
	half, total := len(content)/2, len(content)
	there := fmt.Sprintf("bytes=0-%d", half-1)
	for _, step := range []struct {
		part        string
		body        []byte
		status      int
		header, has string
	}{
		{fmt.Sprintf("bytes 0-%d/%d", half-1, total), content[:half], http.StatusPermanentRedirect, "Range", there},
		{fmt.Sprintf("bytes */%d", total), nil, http.StatusPermanentRedirect, "Range", there},
		{fmt.Sprintf("bytes 0-%d/%d", half-1, total), content[:half], http.StatusConflict, "Range", there},
		{fmt.Sprintf("bytes */%d", total+1), nil, http.StatusConflict, "Range", ""},
		{fmt.Sprintf("bytes %d-%d/%d", half, total-1, total), content[half:], http.StatusCreated, "Range", ""},
		{fmt.Sprintf("bytes */%d", total), nil, http.StatusCreated, "Range", ""},
		{fmt.Sprintf("bytes %d-%d/%d", half, total-1, total), content[half:], http.StatusCreated, "Range", ""},
		{fmt.Sprintf("bytes 0-%d/%d", half-1, total), content[:half], http.StatusConflict, "Range", ""},
	} {
		if _, err := webDo(ctx, http.MethodPut, up, "Content-Range", step.part, step.body, step.status, step.header, step.has); err != nil {
			return err
		}
	}
	down, err := fileURL(ctx, s, "download_url", "moved")
	if err != nil {
		return err
	}
	got, err := webDo(ctx, http.MethodGet, down, "Range", "", nil, http.StatusOK, "Content-Range", "")
	if err != nil || !bytes.Equal(got, content) {
		return fmt.Errorf("what came back has %d bytes and is not what was sent, %d bytes; error %w", len(got), total, err)
	}
	got, err = webDo(ctx, http.MethodGet, down, "Range", fmt.Sprintf("bytes=%d-", half), nil, http.StatusPartialContent,
		"Content-Range", fmt.Sprintf("bytes %d-%d/%d", half, total-1, total))
	if err != nil || !bytes.Equal(got, content[half:]) {
		return fmt.Errorf("the second half has %d bytes and is not what was sent, %d bytes; error %w", len(got), total-half, err)
	}
	fmt.Println("moved", total, "bytes")
	return os.WriteFile("url", []byte(down), 0o600)
}

func webGet(ctx context.Context, file, status string) error {
	url, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(status)
	if err != nil {
		return err
	}
	_, err = webDo(ctx, http.MethodGet, string(url), "Range", "", nil, want, "Content-Range", "")
	return err
}

// fileURL asks for the URL of a file in the last sandbox.
func fileURL(ctx context.Context, s *mcp.ClientSession, tool, path string) (string, error) {
	id, err := os.ReadFile(".ID")
	if err != nil {
		return "", err
	}
	res, err := s.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"sandbox_id": string(id), "path": path}})
	if err != nil {
		return "", err
	}
	told, err := json.Marshal(res.StructuredContent)
	var link struct {
		URL string `json:"url"`
	}
	if err = errors.Join(err, json.Unmarshal(told, &link)); err != nil || link.URL == "" {
		return "", fmt.Errorf("%s: %s: %w", tool, told, err)
	}
	return link.URL, nil
}

// webDo makes a request without a token, and checks the status and one header
// of its response.
func webDo(ctx context.Context, method, url, header, value string, body []byte, status int, told, want string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if value != "" {
		req.Header.Set(header, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != status || res.Header.Get(told) != want) {
		err = fmt.Errorf("%s with %s %q: %s, %s %q; want %d, %q: %.300q", method, header, value, res.Status, told, res.Header.Get(told), status, want, got)
	}
	return got, err
}
