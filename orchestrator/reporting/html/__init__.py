"""The report as one HTML file: what it tells as plain values, charts as inline SVG, one template around them."""
