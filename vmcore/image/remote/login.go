package remote

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"golang.org/x/net/publicsuffix"
)

// login returns the Authorization header for a repository, or "".
func (c *Client) login(repo string) string {
	if c.opts.Token != "" {
		return "Bearer " + c.opts.Token
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logins[repo]
}

func (c *Client) setLogin(repo, header string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logins[repo] = header
}

func (c *Client) basic() string {
	if c.opts.Username == "" {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.opts.Username+":"+c.opts.Password))
}

// logIn answers the challenges of a 401 (RFC 9110 §11.6.1).
func (c *Client) logIn(ctx context.Context, repo string, challenges []string) error {
	if c.opts.Token != "" {
		return errors.New("the configured token is not accepted")
	}
	for _, text := range challenges {
		scheme, params := parseChallenge(text)
		switch {
		case scheme == "basic" && c.basic() != "":
			c.setLogin(repo, c.basic())
			return nil
		case scheme == "bearer":
			token, err := c.token(ctx, repo, params)
			if err == nil {
				c.setLogin(repo, "Bearer "+token)
			}
			return err
		}
	}
	return errors.New("the registry wants a login, and none is configured")
}

// token asks the token server that the registry names
// (distribution.github.io/distribution/spec/auth/token).
func (c *Client) token(ctx context.Context, repo string, params map[string]string) (string, error) {
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" || realm.User != nil {
		return "", fmt.Errorf("the registry names %.80q as its token server", params["realm"])
	}
	q := realm.Query()
	if s := params["service"]; s != "" {
		q.Set("service", s)
	}
	q.Set("scope", "repository:"+repo+":pull")
	realm.RawQuery = q.Encode()
	authorization := ""
	if c.trusts(realm) {
		authorization = c.basic()
	}
	resp, err := c.send(ctx, http.MethodGet, realm.String(), nil, authorization)
	if err != nil {
		return "", fmt.Errorf("ask token server: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask token server: %w", statusError(resp))
	}
	defer resp.Body.Close()
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" || strings.ContainsFunc(answer.Token, unicode.IsControl) {
		return "", errors.New("the token server sends no token")
	}
	return answer.Token, nil
}

// trusts reports whether the password may go to the token server: to the
// registry itself or its own domain.
func (c *Client) trusts(realm *url.URL) bool {
	if realm.Scheme != c.scheme() && realm.Scheme != "https" {
		return false
	}
	if realm.Host == c.host {
		return true
	}
	ours, theirs := (&url.URL{Host: c.host}).Hostname(), realm.Hostname()
	if net.ParseIP(ours) != nil || net.ParseIP(theirs) != nil {
		return false
	}
	a, errA := publicsuffix.EffectiveTLDPlusOne(ours)
	b, errB := publicsuffix.EffectiveTLDPlusOne(theirs)
	return errA == nil && errB == nil && strings.EqualFold(a, b)
}

// parseChallenge reads one WWW-Authenticate header with one challenge: a
// scheme in lower case, and its parameters.
func parseChallenge(s string) (scheme string, params map[string]string) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	params = map[string]string{}
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimLeft(rest, ", \t") {
		key, value, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		if quoted, isQuoted := strings.CutPrefix(value, `"`); isQuoted {
			value, rest = unquote(quoted)
		} else {
			value, rest, _ = strings.Cut(value, ",")
		}
		params[strings.ToLower(strings.TrimSpace(key))] = value
	}
	return strings.ToLower(scheme), params
}

// unquote reads up to the closing quote.
func unquote(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// message returns what a registry says in an error, on one line.
func message(body []byte) string {
	var answer struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	text := string(body)
	if json.Unmarshal(body, &answer) == nil && len(answer.Errors) > 0 {
		text = answer.Errors[0].Code + ": " + answer.Errors[0].Message
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return strings.TrimSpace(text)
}
