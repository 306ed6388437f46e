{
  "targets": [{
    "target_name": "drivlm",
    "type": "none",
    "actions": [{
      "action_name": "cmake_js",
      "inputs": ["CMakeLists.txt"],
      "outputs": ["<(PRODUCT_DIR)/drivlm.node.stamp"],
      "action": ["node", "scripts/build-native.mjs"]
    }]
  }]
}
