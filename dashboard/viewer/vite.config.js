import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

// The page's Content Security Policy lets no script write style attributes as text; the object model may.
const stylesByObject = {
  name: "styles-by-object",
  transform(code, id) {
    if (!id.includes("@cornerstonejs")) return null;
    const changed = code.replace(/(\w+)\.setAttribute\('style',\s*(\w+)\)/g, "$1.style.cssText = $2");
    return changed === code ? null : { code: changed, map: null };
  },
};

// The entry has a fixed name: Flask serves it with an ETag, so a new build is fetched at once. What it loads later
// (Cornerstone3D, on the reading page only) has its hash in its name and may be kept for ever.
export default defineConfig({
  base: "/static/build/",
  publicDir: false,
  plugins: [stylesByObject],
  resolve: { alias: { xmlbuilder2: fileURLToPath(new URL("src/viewport/no-xml.ts", import.meta.url)) } },
  build: {
    outDir: "../static/build",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 6000,
    rollupOptions: {
      input: "src/main.ts",
      output: { entryFileNames: "viewer.js", chunkFileNames: "chunk-[hash].js", assetFileNames: "asset-[hash][extname]", format: "es" },
    },
  },
});
