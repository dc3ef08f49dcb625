import { defineConfig } from "vite";

// One file with a fixed name: Flask serves it with an ETag, so a new build is fetched at once.
export default defineConfig({
  publicDir: false,
  build: {
    outDir: "../static/build",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    rollupOptions: {
      input: "src/main.ts",
      output: { entryFileNames: "viewer.js", format: "es" },
    },
  },
});
