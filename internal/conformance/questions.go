package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// What asks the client something before it answers. mcp-go asks clients of the
// older revisions with a request of the server's, and others by answering that
// more is needed.

// form is a question for the user, with the schema of the answer.
func form(message, schema string) mcp.ElicitationParams {
	return mcp.ElicitationParams{Message: message, RequestedSchema: json.RawMessage(schema)}
}

// textForm is a question for the user with text for an answer.
func textForm(message, property string) mcp.ElicitationParams {
	return form(message, fmt.Sprintf(`{"type":"object","properties":{%q:{"type":"string"}},"required":[%q]}`, property, property))
}

// sample is a question for the client's model.
func sample(prompt string, tokens int) mcp.CreateMessageParams {
	return mcp.CreateMessageParams{MaxTokens: tokens, Messages: []mcp.SamplingMessage{{Role: mcp.RoleUser, Content: mcp.NewTextContent(prompt)}}}
}

// sampled returns what the client's model said.
func sampled(r *mcp.CreateMessageResult) string {
	switch c := r.Content.(type) {
	case mcp.TextContent:
		return c.Text
	case map[string]any:
		return fmt.Sprint(c["text"])
	}
	return fmt.Sprint(r.Content)
}

// filled returns what the user filled in, as the fixtures print it.
func filled(r *mcp.ElicitationResult) string {
	content, err := json.Marshal(r.Content)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("action=%s, content=%s", r.Action, content)
}

// field returns what the user filled in for a property, "" without it.
func field(r *mcp.ElicitationResult, property string) string {
	content, _ := r.Content.(map[string]any)
	s, _ := content[property].(string)
	return s
}

// A round is a call of a tool that asks: the answers that came with it, and the
// state that it was sent to be sent back.
type round struct {
	request mcp.CallToolRequest
	answers mcp.InputResponses
	state   string
}

func (r round) user(id string) *mcp.ElicitationResult {
	return server.ElicitationResponse(r.answers, id)
}

func (r round) model(id string) *mcp.CreateMessageResult {
	return server.SamplingResponse(r.answers, id)
}

func (r round) roots(id string) *mcp.ListRootsResult { return server.RootsResponse(r.answers, id) }

// asking adds a tool that asks. It has what is still needed, or text.
func asking(m *server.MCPServer, name, schema string, next func(ctx context.Context, r round) (*server.InputRequestBuilder, string, error)) {
	m.AddTool(mcp.NewToolWithRawSchema(name, "Asks the client before it answers.", json.RawMessage(schema)),
		func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			needed, text, err := next(ctx, round{req, req.Params.InputResponses, req.Params.RequestState})
			switch {
			case err != nil:
				return nil, err
			case needed != nil:
				return needed.ToolResult(), nil
			}
			return mcp.NewToolResultText(text), nil
		})
}

// mountQuestions adds the tools and the prompt that ask.
func mountQuestions(m *server.MCPServer) {
	mountOnce(m)
	mountStates(m)
	mountForms(m)
	const context1, property = "user_context", "context"
	m.AddPrompt(mcp.Prompt{Name: "test_input_required_result_prompt", Description: "Asks before it answers."},
		func(_ context.Context, r mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			answer := server.ElicitationResponse(r.Params.InputResponses, context1)
			if answer == nil {
				return ask().Elicit(context1, textForm("What context should the prompt use?", property)).PromptResult(), nil
			}
			return &mcp.GetPromptResult{Messages: []mcp.PromptMessage{
				mcp.NewPromptMessage(mcp.RoleUser, mcp.NewTextContent("Use this context: "+field(answer, property)))}}, nil
		})
}

func ask() *server.InputRequestBuilder { return server.NewInputRequestBuilder("") }

// mountOnce adds the tools that ask once, and keep no state.
func mountOnce(m *server.MCPServer) {
	asking(m, "test_input_required_result_elicitation", noArguments, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
		if answer := r.user("user_name"); answer != nil && field(answer, "name") != "" {
			return nil, "Hello, " + field(answer, "name") + "!", nil
		}
		return ask().Elicit("user_name", textForm("What is your name?", "name")), "", nil
	})
	asking(m, "test_streaming_elicitation", noArguments, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
		if answer := r.user("user_name"); answer != nil {
			return nil, filled(answer), nil
		}
		return ask().Elicit("user_name", textForm("What is your name?", "name")), "", nil
	})
	asking(m, "test_input_required_result_sampling", noArguments, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
		if answer := r.model("capital_question"); answer != nil {
			return nil, sampled(answer), nil
		}
		return ask().Sample("capital_question", sample("What is the capital of France?", 100)), "", nil
	})
	asking(m, "test_input_required_result_list_roots", noArguments, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
		if answer := r.roots("client_roots"); answer != nil {
			return nil, rootNames(answer), nil
		}
		return ask().Roots("client_roots"), "", nil
	})
	asking(m, "test_input_required_result_capabilities", noArguments, func(ctx context.Context, r round) (*server.InputRequestBuilder, string, error) {
		if len(r.answers) > 0 {
			return nil, "answered", nil
		}
		needed := ask()
		if can := server.RequestProtocolInfoFromContext(ctx).ClientCapabilities; can != nil {
			if can.Sampling != nil {
				needed.Sample("model", sample("Say something.", 50))
			}
			if can.Elicitation != nil {
				needed.Elicit("user", textForm("Say something.", "words"))
			}
		}
		return needed, "", nil
	})
	// mcp-go has no way to say that a capability is missing; this says it in its words.
	asking(m, "test_missing_capability", noArguments, func(ctx context.Context, _ round) (*server.InputRequestBuilder, string, error) {
		if can := server.RequestProtocolInfoFromContext(ctx).ClientCapabilities; can == nil || can.Sampling == nil {
			return nil, "", mcp.MissingRequiredClientCapabilityError{}
		}
		return nil, "there it is", nil
	})
}

func rootNames(r *mcp.ListRootsResult) string {
	var names []string
	for _, root := range r.Roots {
		names = append(names, root.Name+" "+root.URI)
	}
	return "Roots: " + strings.Join(names, ", ")
}

// sealed are states that a client cannot make up.
type sealed [32]byte

func (s *sealed) seal(state string) string {
	mac := hmac.New(sha256.New, s[:])
	mac.Write([]byte(state))
	return state + "." + hex.EncodeToString(mac.Sum(nil))
}

// check returns whether what came back is the state, sealed.
func (s *sealed) check(came, state string) error {
	if !hmac.Equal([]byte(came), []byte(s.seal(state))) {
		return errors.New("requestState is not what this server sent")
	}
	return nil
}

// mountStates adds the tools whose questions go with a state.
func mountStates(m *server.MCPServer) {
	var key sealed
	_, _ = rand.Read(key[:]) // never fails
	confirm := form("Please confirm", `{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"]}`)
	for _, name := range []string{"test_input_required_result_request_state", "test_input_required_result_tampered_state"} {
		asking(m, name, noArguments, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
			if r.user("confirm") == nil {
				return ask().Elicit("confirm", confirm).RequestState(key.seal("asked")), "", nil
			}
			return nil, "state-ok", key.check(r.state, "asked")
		})
	}
	asking(m, "test_input_required_result_multiple_inputs", noArguments, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
		user, model, roots := r.user("user_name"), r.model("greeting"), r.roots("client_roots")
		if user != nil && model != nil && roots != nil {
			return nil, sampled(model) + " " + field(user, "name") + " " + rootNames(roots), key.check(r.state, "all")
		}
		return ask().Elicit("user_name", textForm("What is your name?", "name")).Sample("greeting", sample("Generate a greeting", 50)).
			Roots("client_roots").RequestState(key.seal("all")), "", nil
	})
	asking(m, "test_input_required_result_multi_round", noArguments, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
		if answer := r.user("step2"); answer != nil {
			return nil, "Your color is " + field(answer, "color"), key.check(r.state, "step 2")
		}
		if r.user("step1") != nil {
			return ask().Elicit("step2", textForm("Step 2: What is your favorite color?", "color")).RequestState(key.seal("step 2")), "", key.check(r.state, "step 1")
		}
		return ask().Elicit("step1", textForm("Step 1: What is your name?", "name")).RequestState(key.seal("step 1")), "", nil
	})
}

// mountForms adds the tools for clients of the older revisions.
func mountForms(m *server.MCPServer) {
	elicits := func(name, schema, answerPrefix string, question func(r round) mcp.ElicitationParams) {
		asking(m, name, schema, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
			if answer := r.user("answer"); answer != nil {
				return nil, answerPrefix + filled(answer), nil
			}
			return ask().Elicit("answer", question(r)), "", nil
		})
	}
	elicits("test_elicitation", `{"type":"object","properties":{"message":{"type":"string"}},"required":["message"]}`, "User response: ", func(r round) mcp.ElicitationParams {
		return form(r.request.GetString("message", ""), `{"type":"object","properties":{"username":{"type":"string","description":"User's response"},
			"email":{"type":"string","description":"User's email address"}},"required":["username","email"]}`)
	})
	elicits("test_elicitation_sep1034_defaults", noArguments, "Elicitation completed: ", func(round) mcp.ElicitationParams {
		return form("Fill in what is not right", `{"type":"object","properties":{
			"name":{"type":"string","default":"John Doe"}, "age":{"type":"integer","default":30}, "score":{"type":"number","default":95.5},
			"status":{"type":"string","enum":["active","inactive","pending"],"default":"active"}, "verified":{"type":"boolean","default":true}}}`)
	})
	elicits("test_elicitation_sep1330_enums", noArguments, "Elicitation completed: ", func(round) mcp.ElicitationParams {
		return form("Choose", `{"type":"object","properties":{
			"untitledSingle":{"type":"string","enum":["option1","option2","option3"]},
			"titledSingle":{"type":"string","oneOf":[{"const":"value1","title":"First Option"},{"const":"value2","title":"Second Option"},{"const":"value3","title":"Third Option"}]},
			"legacyEnum":{"type":"string","enum":["opt1","opt2","opt3"],"enumNames":["Option One","Option Two","Option Three"]},
			"untitledMulti":{"type":"array","items":{"type":"string","enum":["option1","option2","option3"]}},
			"titledMulti":{"type":"array","items":{"anyOf":[{"const":"value1","title":"First Choice"},{"const":"value2","title":"Second Choice"},{"const":"value3","title":"Third Choice"}]}}}}`)
	})
	asking(m, "test_sampling", `{"type":"object","properties":{"prompt":{"type":"string"}},"required":["prompt"]}`, func(_ context.Context, r round) (*server.InputRequestBuilder, string, error) {
		if answer := r.model("answer"); answer != nil {
			return nil, "LLM response: " + sampled(answer), nil
		}
		return ask().Sample("answer", sample(r.request.GetString("prompt", ""), 100)), "", nil
	})
}
