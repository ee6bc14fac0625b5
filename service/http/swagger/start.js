// The key that a reader enters stays in this page's memory; it is sent only to this service.
window.ui = SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#document",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
