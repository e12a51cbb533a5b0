package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// mount adds the fixtures to a server.
func mount(m *server.MCPServer) {
	for _, option := range []server.ServerOption{
		server.WithResourceCapabilities(true, false), server.WithLogging(), server.WithCompletions(),
		server.WithPromptCompletionProvider(completions{}), server.WithElicitation(),
		server.WithToolCapabilities(true), server.WithPromptCapabilities(true),
	} {
		option(m)
	}
	m.EnableSampling()
	mountContent(m)
	mountWhileCalled(m)
	mountChanges(m)
	mountQuestions(m)
	mountResources(m)
	mountPrompts(m)
}

// noArguments is the input schema of most of the tools.
const noArguments = `{"type":"object","properties":{}}`

// add adds a tool without arguments.
func add(m *server.MCPServer, name, description string, handler server.ToolHandlerFunc) {
	m.AddTool(mcp.NewToolWithRawSchema(name, description, json.RawMessage(noArguments)), handler)
}

// answers returns a handler that always answers the same.
func answers(content ...mcp.Content) server.ToolHandlerFunc {
	return func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: content}, nil
	}
}

// mountContent adds the tools that answer with each kind of content.
func mountContent(m *server.MCPServer) {
	text := mcp.NewTextContent
	picture := mcp.NewImageContent(redPixel(), "image/png")
	resource := func(uri, mime, content string) mcp.Content {
		return mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: uri, MIMEType: mime, Text: content})
	}
	add(m, "test_simple_text", "Answers with text.", answers(text("This is a simple text response for testing.")))
	add(m, "test_image_content", "Answers with an image.", answers(picture))
	add(m, "test_audio_content", "Answers with a sound.", answers(mcp.NewAudioContent(silence(), "audio/wav")))
	add(m, "test_embedded_resource", "Answers with a resource.",
		answers(resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")))
	add(m, "test_multiple_content_types", "Answers with several kinds of content.",
		answers(text("Multiple content types test:"), picture, resource("test://mixed-content-resource", "application/json", `{"test":"data","value":123}`)))
	add(m, "test_error_handling", "Answers with an error.", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultError("This tool intentionally returns an error for testing"), nil
	})
	m.AddTool(mcp.NewToolWithRawSchema("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", json.RawMessage(`{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
		"$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
		"properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"},
			"contactMethod": {"type": "string", "enum": ["phone", "email"]}, "phone": {"type": "string"}, "email": {"type": "string"}},
		"allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
		"if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
		"then": {"required": ["phone"]}, "else": {"required": ["email"]}, "additionalProperties": false}`)), answers(text("ok")))
	m.AddTool(mcp.NewToolWithRawSchema("test_headers", "Has an argument that is repeated in a header.", json.RawMessage(
		`{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}},"required":["region"]}`)), answers(text("ok")))
}

// mountWhileCalled adds the tools that say something before they answer.
func mountWhileCalled(m *server.MCPServer) {
	logs := func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for _, message := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
			if err := m.SendLogMessageToClient(ctx, mcp.NewLoggingMessageNotification(mcp.LoggingLevelInfo, "conformance", message)); err != nil {
				return nil, err
			}
			pause(ctx)
		}
		return mcp.NewToolResultText("logged"), nil
	}
	add(m, "test_tool_with_logging", "Logs three messages.", logs)
	add(m, "test_logging_tool", "Logs three messages, if the client wants them.", logs)
	add(m, "test_tool_with_progress", "Tells of its progress three times.", func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for _, step := range []int{0, 50, 100} {
			if r.Params.Meta != nil && r.Params.Meta.ProgressToken != nil {
				params := map[string]any{"progressToken": r.Params.Meta.ProgressToken, "progress": step, "total": 100}
				if err := m.SendNotificationToClient(ctx, "notifications/progress", params); err != nil {
					return nil, err
				}
			}
			pause(ctx)
		}
		return mcp.NewToolResultText("done"), nil
	})
}

// pause waits as long as the suites want between two notifications.
func pause(ctx context.Context) {
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// mountChanges adds the tools that change what there is, for those who listen.
func mountChanges(m *server.MCPServer) {
	add(m, "test_trigger_tool_change", "Adds a tool, and removes it.", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		add(m, "test_short_lived", "Is about to go.", answers(mcp.NewTextContent("still here")))
		m.DeleteTools("test_short_lived")
		return mcp.NewToolResultText("changed"), nil
	})
	add(m, "test_trigger_prompt_change", "Adds a prompt, and removes it.", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		m.AddPrompt(mcp.NewPrompt("test_short_lived"), func(context.Context, mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return &mcp.GetPromptResult{}, nil
		})
		m.DeletePrompts("test_short_lived")
		return mcp.NewToolResultText("changed"), nil
	})
}

// mountResources adds the resources.
func mountResources(m *server.MCPServer) {
	static := func(contents mcp.ResourceContents) server.ResourceHandlerFunc {
		return func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			return []mcp.ResourceContents{contents}, nil
		}
	}
	describe := func(uri, mime string) mcp.Resource {
		return mcp.NewResource(uri, strings.TrimPrefix(uri, "test://"), mcp.WithMIMEType(mime), mcp.WithResourceDescription("For tests."))
	}
	m.AddResource(describe("test://static-text", "text/plain"), static(mcp.TextResourceContents{
		URI: "test://static-text", MIMEType: "text/plain", Text: "This is the content of the static text resource."}))
	m.AddResource(describe("test://static-binary", "image/png"), static(mcp.BlobResourceContents{
		URI: "test://static-binary", MIMEType: "image/png", Blob: redPixel()}))
	m.AddResource(describe("test://watched-resource", "text/plain"), static(mcp.TextResourceContents{
		URI: "test://watched-resource", MIMEType: "text/plain", Text: "It never changes."}))
	m.AddResourceTemplate(mcp.NewResourceTemplate("test://template/{id}/data", "template", mcp.WithTemplateMIMEType("application/json"), mcp.WithTemplateDescription("For tests.")),
		func(_ context.Context, r mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			id := strings.TrimSuffix(strings.TrimPrefix(r.Params.URI, "test://template/"), "/data")
			text, err := json.Marshal(map[string]any{"id": id, "templateTest": true, "data": "Data for ID: " + id})
			return []mcp.ResourceContents{mcp.TextResourceContents{URI: r.Params.URI, MIMEType: "application/json", Text: string(text)}}, err
		})
}

// mountPrompts adds the prompts.
func mountPrompts(m *server.MCPServer) {
	says := func(content ...mcp.Content) *mcp.GetPromptResult {
		var messages []mcp.PromptMessage
		for _, c := range content {
			messages = append(messages, mcp.NewPromptMessage(mcp.RoleUser, c))
		}
		return &mcp.GetPromptResult{Messages: messages}
	}
	text := mcp.NewTextContent
	prompt := func(name string, result func(args map[string]string) *mcp.GetPromptResult, args ...string) {
		p := mcp.Prompt{Name: name, Description: "For tests."}
		for _, a := range args {
			p.Arguments = append(p.Arguments, mcp.PromptArgument{Name: a, Description: "For tests.", Required: true})
		}
		m.AddPrompt(p, func(_ context.Context, r mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return result(r.Params.Arguments), nil
		})
	}
	prompt("test_simple_prompt", func(map[string]string) *mcp.GetPromptResult {
		return says(text("This is a simple prompt for testing."))
	})
	prompt("test_prompt_with_arguments", func(args map[string]string) *mcp.GetPromptResult {
		return says(text(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", args["arg1"], args["arg2"])))
	}, "arg1", "arg2")
	prompt("test_prompt_with_embedded_resource", func(args map[string]string) *mcp.GetPromptResult {
		return says(mcp.NewEmbeddedResource(mcp.TextResourceContents{
			URI: args["resourceUri"], MIMEType: "text/plain", Text: "Embedded resource content for testing."}),
			text("Please process the embedded resource above."))
	}, "resourceUri")
	prompt("test_prompt_with_image", func(map[string]string) *mcp.GetPromptResult {
		return says(mcp.NewImageContent(redPixel(), "image/png"), text("Please analyze the image above."))
	})
}

// completions completes the first argument of a prompt.
type completions struct{}

// CompletePromptArgument implements [server.PromptCompletionProvider].
func (completions) CompletePromptArgument(_ context.Context, _ string, a mcp.CompleteArgument, _ mcp.CompleteContext) (*mcp.Completion, error) {
	c := &mcp.Completion{Values: []string{}}
	for _, v := range []string{"paris", "park", "party"} {
		if strings.HasPrefix(v, a.Value) {
			c.Values = append(c.Values, v)
		}
	}
	c.Total = len(c.Values)
	return c, nil
}

// redPixel returns a picture of one pixel, in base64.
func redPixel() string {
	pixel := image.NewRGBA(image.Rect(0, 0, 1, 1))
	pixel.Set(0, 0, color.RGBA{R: 255, A: 255})
	var b bytes.Buffer
	if err := png.Encode(&b, pixel); err != nil {
		panic("encode a picture in memory: " + err.Error())
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

// silence returns a sound of no length, in base64: the header of a WAV file of
// one channel, 8,000 samples of 8 bits a second.
func silence() string {
	const header = "RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00data\x00\x00\x00\x00"
	return base64.StdEncoding.EncodeToString([]byte(header))
}
